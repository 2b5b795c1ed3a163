import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from shared.telemetry.logs import CONTENT_KEYS, configure_logs

Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure() -> Iterator[Configure]:
    undo: list[Callable[[], None]] = []

    def start(**changes: object) -> io.StringIO:
        stream = io.StringIO()
        arguments = {"level": "INFO", "log_format": "json", "stream": stream} | changes
        undo.append(configure_logs(**arguments))  # type: ignore[arg-type]
        return stream

    yield start
    for step in reversed(undo):
        step()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_the_constants(configure: Configure) -> None:
    stream = configure(constants={"service": "gateway", "instance": "i"})
    structlog.get_logger("x").info("hello\nworld", count=1)
    (line,) = lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "message"]
    assert line["message"] == "hello\nworld"
    assert (line["level"], line["service"], line["instance"], line["count"]) == ("info", "gateway", "i", 1)


def test_inside_a_span_a_line_has_its_trace_id(configure: Configure) -> None:
    stream = configure()
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("a") as span:
        structlog.get_logger().info("inside")
        logging.getLogger("library").warning("inside too")
    structlog.get_logger().info("outside")
    inside, too, outside = lines(stream)
    assert inside["trace_id"] == too["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert "trace_id" not in outside


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_a_stranger_wrote_begins_no_line_and_steers_no_terminal(configure: Configure, log_format: str) -> None:
    stream = configure(log_format=log_format)
    forged = 'x\n2026-01-01 [error] forged\r\x1b[2J\u2028"}'
    structlog.get_logger().warning(forged, tenant=forged)
    logging.getLogger("library").warning("said %s", forged)
    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    assert text.removesuffix("\n").replace("\n", "").isprintable()


def test_a_warning_says_what_to_do(configure: Configure) -> None:
    stream = configure()
    structlog.get_logger().warning("redis_lost_its_data")
    structlog.get_logger().info("redis_lost_its_data")
    structlog.get_logger().warning("something; look there")
    warned, informed, itself = lines(stream)
    assert "find out why" in str(warned["advice"])
    assert "advice" not in informed
    assert "advice" not in itself


@pytest.mark.parametrize("key", sorted(CONTENT_KEYS))
def test_content_is_hidden_unless_asked_for(configure: Configure, key: str) -> None:
    stream = configure()
    structlog.get_logger().info("got", **{key: "my secret"})
    assert "secret" not in stream.getvalue()
    assert lines(stream)[0][key] == "<hidden, length 9>"
    stream = configure(log_content=True)
    structlog.get_logger().info("got", **{key: "my secret"})
    assert lines(stream)[0][key] == "my secret"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_never_shows_local_variables(configure: Configure, log_format: str) -> None:
    stream = configure(log_format=log_format)
    prompt = "my secret"
    try:
        raise RuntimeError("broken" + prompt[:0])
    except RuntimeError:
        structlog.get_logger().exception("failed")
    assert "RuntimeError: broken" in stream.getvalue()
    assert "my secret" not in stream.getvalue()


@pytest.mark.parametrize("name", ["aiokafka.consumer", "faststream", "uvicorn.access", "httpx"])
def test_chatty_libraries_are_quiet_at_info(configure: Configure, name: str) -> None:
    stream = configure(level="DEBUG")
    logging.getLogger(name).info("noise")
    assert stream.getvalue() == ""
    logging.getLogger(name).error("worth knowing")
    assert lines(stream)[0]["message"] == "worth knowing"


def test_a_librarys_own_handlers_are_taken_away(configure: Configure) -> None:
    library = logging.getLogger("uvicorn.error")
    library.addHandler(logging.StreamHandler(io.StringIO()))
    library.propagate = False
    stream = configure()
    library.error("once")
    assert [line["message"] for line in lines(stream)] == ["once"]
    assert library.handlers == []


def test_a_library_that_repeats_itself_is_written_once_and_our_own_lines_always(configure: Configure) -> None:
    stream = configure()
    for attempt in range(3):
        logging.getLogger("aiokafka.conn").warning("no connection, attempt %s", attempt)
        structlog.get_logger().warning("commit failed", attempt=attempt)
    said = [line["message"] for line in lines(stream)]
    assert said.count("no connection, attempt 0") == 1
    assert said.count("commit failed") == 3
    assert len(said) == 4


def test_the_level_holds_for_both_worlds(configure: Configure) -> None:
    stream = configure(level="WARNING")
    structlog.get_logger().info("no")
    logging.getLogger("library").info("no")
    logging.getLogger("library").warning("yes %s", 1)
    assert [line["message"] for line in lines(stream)] == ["yes 1"]
    assert lines(stream)[0]["logger"] == "library"


def test_what_json_cannot_say_is_said_anyway(configure: Configure) -> None:
    stream = configure()
    structlog.get_logger().info("odd", raw=b"\xffa", thing=object, lone="\udcff")
    (line,) = lines(stream)
    assert line["raw"] == "\\xffa"
    assert line["thing"] == "<class 'object'>"
    stream.getvalue().encode("utf-8")


def test_warnings_are_lines_too(configure: Configure) -> None:
    stream = configure()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("careful", stacklevel=1)
    assert "careful" in str(lines(stream)[0]["message"])


def test_undoing_gives_the_root_logger_back() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    configure_logs(level="ERROR", log_format="json", stream=io.StringIO())()
    assert (root.handlers, root.level) == before
