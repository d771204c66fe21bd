"""How settings are read, and how misspelt ones are refused."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from shared.errors import CommandError
from shared.settings import FabricSettings, Settings, TextList, reference


class Lamp(Settings):
    """A lamp with a password."""

    model_config = SettingsConfigDict(env_prefix="TEST_LAMP_")

    watts: Annotated[int, Field(ge=1, le=100)] = 10
    """How bright."""
    password: SecretStr
    """Who may switch it."""
    rooms: TextList = ("hall",)
    """Where it shines, | separated by nothing."""


class Joined(FabricSettings):
    """Something on the fabric."""

    model_config = SettingsConfigDict(env_prefix="TEST_JOINED_")


@pytest.fixture
def environment(monkeypatch):
    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def test_variables_are_read(environment) -> None:
    environment(TEST_LAMP_WATTS="60", TEST_LAMP_PASSWORD="x", TEST_LAMP_ROOMS="hall, attic ,")
    lamp = Lamp.load()
    assert (lamp.watts, lamp.rooms) == (60, ("hall", "attic"))


def test_a_list_may_be_json(environment) -> None:
    environment(TEST_LAMP_PASSWORD="x", TEST_LAMP_ROOMS='["a", "b"]')
    assert Lamp.load().rooms == ("a", "b")


def test_a_misspelt_variable_is_refused_and_the_right_one_suggested(environment) -> None:
    environment(TEST_LAMP_PASSWORD="x", TEST_LAMP_WATS="60")
    with pytest.raises(CommandError, match=r"unknown variable TEST_LAMP_WATS .*TEST_LAMP_WATTS"):
        Lamp.load()


def test_an_empty_variable_counts_as_absent(environment) -> None:
    environment(TEST_LAMP_PASSWORD="x", TEST_LAMP_WATTS="")
    assert Lamp.load().watts == 10


def test_every_problem_is_named_and_no_value_shown(environment) -> None:
    environment(TEST_LAMP_WATTS="sesame")
    with pytest.raises(CommandError) as caught:
        Lamp.load()
    assert "TEST_LAMP_WATTS" in str(caught.value)
    assert "TEST_LAMP_PASSWORD" in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_a_file_is_read_and_the_environment_goes_before_it(environment, tmp_path: Path) -> None:
    file = tmp_path / "lamp.toml"
    file.write_text('watts = 5\npassword = "from file"\nrooms = ["cellar"]\n')
    environment(TEST_LAMP_WATTS="7", TEST_LAMP_CONFIG=str(file))
    lamp = Lamp.load()
    assert (lamp.watts, lamp.rooms) == (7, ("cellar",))
    assert lamp.password.get_secret_value() == "from file"
    assert Lamp.load(file, watts=9).watts == 9


@pytest.mark.parametrize(
    ("text", "problem"),
    [("wats = 5", r"TEST_LAMP_WATS.* \(in .*lamp\.toml\)"), ("watts = ", "cannot read")],
)
def test_a_wrong_file_is_refused(environment, tmp_path: Path, text: str, problem: str) -> None:
    environment(TEST_LAMP_PASSWORD="x")
    file = tmp_path / "lamp.toml"
    file.write_text(text)
    with pytest.raises(CommandError, match=problem):
        Lamp.load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot read .*none\.toml"):
        Lamp.load(tmp_path / "none.toml")


def test_settings_do_not_change_and_do_not_show_secrets() -> None:
    lamp = Lamp(password=SecretStr("hunter2"))
    with pytest.raises(ValueError, match="frozen"):
        lamp.watts = 5
    assert "hunter2" not in repr(lamp)


def test_nothing_joins_the_fabric_without_tls(environment) -> None:
    with pytest.raises(CommandError, match=r"TEST_JOINED_TLS_CERT.*TEST_JOINED_TLS_KEY"):
        Joined.load()
    environment(TEST_JOINED_TLS_CERT="c.pem", TEST_JOINED_TLS_KEY="c.key")
    with pytest.raises(CommandError, match="tls_ca is needed"):
        Joined.load()


def test_a_shared_certificate_is_its_own_ca(environment) -> None:
    environment(
        TEST_JOINED_TLS_CERT="c.pem",
        TEST_JOINED_TLS_KEY="c.key",
        TEST_JOINED_SHARED_CERTIFICATE="true",
        TEST_JOINED_NATS_URLS="tls://a:1,tls://b:2",
    )
    joined = Joined.load()
    assert joined.credentials.ca == joined.credentials.cert == Path("c.pem")
    assert joined.credentials.shared
    assert joined.nats_urls == ("tls://a:1", "tls://b:2")


def test_the_reference_has_a_row_per_field() -> None:
    page = reference([Lamp, Joined])
    assert "## `TEST_LAMP_*`\n\nA lamp with a password.\n" in page
    assert "| `TEST_LAMP_WATTS` | integer | `10` | How bright. |" in page
    assert "| `TEST_LAMP_PASSWORD` | secret | **required** | Who may switch it. |" in page
    assert "| `TEST_LAMP_ROOMS` | list of text | `hall` | Where it shines, \\| separated" in page
    assert "| `TEST_JOINED_TLS_CA` | path |" in page
    assert "| `TEST_JOINED_SHARED_CERTIFICATE` | true or false | `false` |" in page


def test_the_reference_refuses_an_undocumented_field() -> None:
    class Mute(Settings):
        """Silent."""

        model_config = SettingsConfigDict(env_prefix="TEST_MUTE_")
        volume: int = 1

    with pytest.raises(ValueError, match="TEST_MUTE_VOLUME"):
        reference([Mute])
