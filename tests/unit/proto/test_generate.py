"""What is generated from the contract and committed is what the contract says."""

import subprocess
import sys
from pathlib import Path

from shared.contracts.errors import error_classes
from shared.contracts.topics import TopicNames, topic_specifications

ROOT = Path(__file__).parents[3]
README = (ROOT / "proto" / "README.md").read_text()


def test_committed_code_and_tables_are_current() -> None:
    check = subprocess.run(
        [sys.executable, str(ROOT / "proto" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (check.returncode, check.stdout) == (0, ""), check.stdout + check.stderr


def test_the_readme_names_every_topic() -> None:
    for topic in topic_specifications(TopicNames(), pools=("<pool>",)):
        assert f"| `{topic.name}` | {topic.partitions} | {topic.purpose} |" in README


def test_the_readme_names_every_error_code_and_no_other() -> None:
    table = README.split("<!-- errors:")[1].split("<!-- end errors")[0]
    codes = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert codes == set(error_classes())
