"""Fixtures that every test may ask for: real servers, started lazily, once a session."""

pytest_plugins: list[str] = [
    "tests.fixtures.kafka_server",
    "tests.fixtures.random_models",
    "tests.fixtures.redis_server",
    "tests.fixtures.smollm2",
    "tests.fixtures.stack",
    "tests.fixtures.triton_interpreter",
]
