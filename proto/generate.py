"""Writes what follows from the contract: the Python in shared/contracts/generated and the tables in proto/README.md.

    python proto/generate.py           rewrite both
    python proto/generate.py --check   say what is out of date and exit with 1; writes nothing

Needs grpcio-tools (a development dependency; the platform itself runs without). The output depends on the
.proto files, on shared/contracts and on the pinned version of grpcio-tools, on nothing else.
"""

import argparse
import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "proto"
GENERATED = ROOT / "shared" / "contracts" / "generated"
GENERATED_PACKAGE = "shared.contracts.generated"
README = SOURCES / "README.md"

# protoc writes imports as if the output folder were on sys.path.
_IMPORT = re.compile(r"^from (access|fleet|inference)\.v1 import ", re.MULTILINE)


def generated_python() -> dict[str, str]:
    """The content of every generated file by its path below `GENERATED`."""
    from grpc_tools import protoc

    sources = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "protoc",
            f"--proto_path={SOURCES}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
            *sources,
        ]
        if protoc.main(arguments) != 0:
            raise SystemExit("protoc failed")
        output = Path(folder)
        content = {
            str(path.relative_to(output)): _IMPORT.sub(rf"from {GENERATED_PACKAGE}.\1.v1 import ", path.read_text())
            for path in sorted(output.rglob("*.py*"))
        }
    packages = {parent for name in content for parent in Path(name).parents}
    return content | {str(package / "__init__.py"): "" for package in packages}


def topic_table() -> str:
    """The topics of an installation without prefixes, as `shared/contracts/topics.py` specifies them."""
    from shared.contracts.topics import TopicNames, topic_specifications

    rows = ["| topic | partitions | purpose | configuration |", "|---|---|---|---|"]
    for topic in topic_specifications(TopicNames(), pools=("<pool>",)):
        configs = ", ".join(f"{name}={value}" for name, value in sorted(topic.configs.items()))
        rows.append(f"| `{topic.name}` | {topic.partitions} | {topic.purpose} | {configs} |")
    return "\n".join(rows)


def error_table() -> str:
    from shared.contracts.errors import error_classes, error_type

    rows = ["| code | type | blame | retry |", "|---|---|---|---|"]
    for code, error in sorted(error_classes().items()):
        rows.append(f"| `{code}` | `{error_type(error.blame, code)}` | {error.blame} | {error.retry} |")
    return "\n".join(rows)


def readme_with_tables(text: str) -> str:
    for name, table in (("topics", topic_table()), ("errors", error_table())):
        pattern = re.compile(rf"(<!-- {name}: [^>]*-->\n).*?(\n<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"proto/README.md has no place for the table of {name}")
        text = pattern.sub(lambda match, table=table: match[1] + table + match[2], text)
    return text


def expected_files() -> dict[Path, str]:
    expected = {GENERATED / name: content for name, content in generated_python().items()}
    return expected | {README: readme_with_tables(README.read_text())}


def stale_files(expected: dict[Path, str]) -> list[Path]:
    """What is missing, different, or there without a source."""
    committed = {path for path in GENERATED.rglob("*.py*") if path.suffix in {".py", ".pyi"}}
    different = {path for path, text in expected.items() if not path.exists() or path.read_text() != text}
    return sorted(different | (committed - set(expected)))


def write(expected: dict[Path, str]) -> None:
    for path in stale_files(expected):
        if path not in expected:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(expected[path])


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the Python of the contract and the tables of its README.")
    parser.add_argument("--check", action="store_true", help="report what is out of date; write nothing")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    expected = expected_files()
    stale = stale_files(expected)
    for path in stale:
        print(("stale: " if arguments.check else "wrote: ") + str(path.relative_to(ROOT)))
    if not arguments.check:
        write(expected)
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
