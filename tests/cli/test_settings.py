from __future__ import annotations

from pathlib import Path

import pytest

from hypeman_libvirt.settings import (
    Settings,
    SettingsError,
    is_local,
    load_settings,
    unknown_variables,
)

SECRET = "d41d8cd98f00b204e9800998ecf8427e"
UNREADABLE = Path("/sys/bus/platform/drivers_probe")
"""Nobody may read it, root included: sysfs lets this file be written only."""


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("JWT_SECRET", "CREDENTIALS_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def complaint(config: Path, **flags: object) -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings(config, flags)
    return refused.value.message


def test_flags_go_before_the_environment_and_that_before_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('listen = "127.0.0.1:1"\nuri = "test:///1"\nregistry = "/1"\nthreads = 1\n')
    monkeypatch.setenv("HYPEMAN_LIBVIRT_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("HYPEMAN_LIBVIRT_URI", "test:///2")
    settings = load_settings(config, {"listen": "127.0.0.1:3", "uri": None, "registry": None})
    assert settings.listen == "127.0.0.1:3"
    assert settings.uri == "test:///2"
    assert settings.registry == "/1"
    assert settings.threads == 1
    assert settings.operation_timeout == 30


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("uri", "registry"),
    [
        ("qemu:///system", "/var/lib/libvirt/hypeman/registry.db"),
        ("qemu+tls://host.example/system", "/var/lib/libvirt/hypeman/registry.db"),
        ("qemu:///session", "{state}/hypeman-libvirt/registry.db"),
        ("qemu+unix:///session?socket=/run/s", "{state}/hypeman-libvirt/registry.db"),
        ("test:///srv/host.xml", "{state}/hypeman-libvirt/registry.db"),
        (None, "{state}/hypeman-libvirt/registry.db"),
    ],
)
def test_the_registry_lies_beside_the_state_of_whoever_runs_libvirt(
    uri: str | None, registry: str, tmp_path: Path
) -> None:
    state = tmp_path / "home" / ".local" / "state"
    assert Settings(uri=uri).registry_location == registry.format(state=state)


def test_state_home_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert Settings().registry_location == "/srv/state/hypeman-libvirt/registry.db"


def test_a_password_in_the_registrys_url_is_not_shown() -> None:
    settings = Settings(registry="postgresql+psycopg://hypeman:hunter2@db.example/hypeman")
    assert settings.shown_registry == "postgresql+psycopg://hypeman:***@db.example/hypeman"


def test_the_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    assert Settings().secret() == SECRET
    assert SECRET not in repr(Settings())


def test_the_secret_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    assert Settings(jwt_secret_file=tmp_path / "secret").secret() == SECRET


def test_the_secret_comes_from_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jwt-secret").write_text(SECRET)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Settings().secret() == SECRET


@pytest.mark.parametrize("empty", [None, "", " \t"])
def test_no_secret_stops_the_start(empty: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if empty is not None:
        monkeypatch.setenv("JWT_SECRET", empty)
    with pytest.raises(SettingsError, match=r"export JWT_SECRET=\$\(openssl rand -hex 32\)"):
        Settings().secret()


@pytest.mark.parametrize(
    ("mode", "exposed"), [(0o600, False), (0o640, False), (0o644, True), (0o660, True)]
)
def test_a_secret_is_for_its_owner_and_a_group_that_reads(
    tmp_path: Path, mode: int, exposed: bool
) -> None:
    secret = tmp_path / "secret"
    secret.touch()
    secret.chmod(mode)
    settings = Settings(jwt_secret_file=secret, registry=str(tmp_path / "none.db"))
    assert settings.exposed_files == [secret] * exposed


def test_an_empty_file_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(SettingsError, match="no JWT secret"):
        Settings(jwt_secret_file=tmp_path / "secret").secret()


def test_a_missing_secret_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"the JWT secret in .*nonesuch cannot be read"):
        Settings(jwt_secret_file=tmp_path / "nonesuch").secret()


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        ("127.0.0.1:8080", True),
        ("127.1.2.3:0", True),
        ("[::1]:8080", True),
        ("localhost:8080", True),
        ("unix:/run/hypeman.sock", True),
        ("0.0.0.0:8080", False),
        ("[::]:8080", False),
        ("192.0.2.1:8080", False),
        ("host.example:8080", False),
        ("localhost.example:8080", False),
    ],
)
def test_auth_is_switched_off_on_local_addresses_only(
    listen: str, *, local: bool, config: Path
) -> None:
    config.touch()
    assert is_local(listen) is local
    if local:
        assert load_settings(config, {"auth": "off", "listen": listen}).auth == "off"
    else:
        told = complaint(config, auth="off", listen=listen)
        assert told.startswith(f"auth = off serves whoever can connect, and {listen} is not")


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("thread = 4", "unknown setting 'thread' in {config}; known are agent_url, auth, "),
        ("threads = 0", "setting threads: Input should be greater than or equal to 1"),
        ("operation_timeout = inf", "setting operation_timeout: Input should be a finite number"),
        ('listen = "8080"', "setting listen: write host:port, [IPv6 address]:port or unix:/path"),
        ('listen = "[::1]:65536"', "setting listen: write host:port"),
        ('listen = "unix:run/x"', "setting listen: a Unix socket needs an absolute path"),
        ('auth = "none"', "setting auth: Input should be 'jwt' or 'off'"),
        ('uri = ""', "setting uri: String should have at least 1 character"),
        ("threads", "settings file {config} is not valid TOML"),
    ],
)
def test_a_wrong_file_is_explained(config: Path, toml: str, told: str) -> None:
    config.write_text(toml)
    assert told.format(config=config) in complaint(config)


def test_a_file_of_another_encoding_is_explained(config: Path) -> None:
    config.write_bytes(b"\xff\xfe")
    assert complaint(config).startswith(f"settings file {config} is not valid TOML")


def test_a_file_that_is_not_there_is_told(config: Path) -> None:
    assert complaint(config) == f"there is no settings file {config}; check --config"


def test_a_wrong_secret_is_not_repeated(config: Path) -> None:
    config.write_text(f'jwt_secret = ["{SECRET}"]')
    assert SECRET not in complaint(config)
    assert "JWT_SECRET" in complaint(config)


@pytest.mark.parametrize("short", ["hunter2", "s" * 31, "ä" * 15])
def test_a_secret_that_can_be_guessed_stops_the_start(
    short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JWT_SECRET", short)
    with pytest.raises(SettingsError, match=r"bytes and could be guessed; .* openssl rand -hex 32"):
        Settings().secret()


def test_thirty_two_bytes_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", "ä" * 16)
    assert Settings().secret() == "ä" * 16


@pytest.mark.parametrize("kind", ["PUBLIC KEY", "RSA PRIVATE KEY", "CERTIFICATE"])
def test_a_key_is_no_secret(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"\n-----BEGIN {kind}-----\n{'A' * 64}\n-----END {kind}-----\n")
    with pytest.raises(SettingsError, match=rf"the JWT secret in {file} is a PEM key"):
        Settings(jwt_secret_file=file).secret()


def test_the_packaged_secret_is_found_where_nobody_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jwt-secret").write_text(f"{SECRET}\n")
    assert load_settings(etc=tmp_path).secret() == SECRET
    monkeypatch.setenv("JWT_SECRET", "x" * 32)
    assert load_settings(etc=tmp_path).secret() == "x" * 32


def test_the_packaged_settings_are_found(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("threads = 3\n")
    assert load_settings(etc=tmp_path).threads == 3


def test_what_may_not_be_read_is_named_with_its_owner() -> None:
    denied = f"this user may not open {UNREADABLE}, which belongs to root:root (mode 0200); run the"
    assert complaint(UNREADABLE) == f"settings file: {denied} command with sudo"
    with pytest.raises(SettingsError, match=r"the JWT secret: this user may not open /sys/"):
        Settings(jwt_secret_file=UNREADABLE).secret()


def test_a_settings_file_with_the_secret_in_it_is_for_nobody_else(config: Path) -> None:
    config.write_text(f'jwt_secret = "{SECRET}"\n')
    config.chmod(0o644)
    assert config in load_settings(config).exposed_files
    config.chmod(0o600)
    assert config not in load_settings(config).exposed_files
    config.write_text("threads = 2\n")
    config.chmod(0o644)
    assert config not in load_settings(config).exposed_files


def test_a_password_among_the_parameters_is_not_shown() -> None:
    settings = Settings(registry="postgresql+psycopg:///hypeman?user=u&password=hunter2&host=/run")
    shown = "postgresql+psycopg:///hypeman?user=u&password=***&host=/run"
    assert settings.shown_registry == shown


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("HYPEMAN_LIBVIRT_LISTN", "HYPEMAN_LIBVIRT_LISTEN"),
        ("hypeman_libvirt_thread", "HYPEMAN_LIBVIRT_THREADS"),
        ("HYPEMAN_LIBVIRT_JWT_SECRET", "JWT_SECRET"),
        ("HYPEMAN_LIBVIRT_SECRET_FILE", "HYPEMAN_LIBVIRT_JWT_SECRET_FILE"),
    ],
)
def test_a_variable_that_is_no_setting_is_named_with_the_nearest(variable: str, meant: str) -> None:
    (sentence,) = unknown_variables({variable: "x"})
    assert sentence == f"{variable} is no setting and was ignored; did you mean {meant}?"


def test_variables_that_are_settings_are_not_mentioned() -> None:
    settings = [f"HYPEMAN_LIBVIRT_{name.upper()}" for name in Settings.model_fields]
    settings.remove("HYPEMAN_LIBVIRT_JWT_SECRET")
    others = ["JWT_SECRET", "HYPEMAN_BASE_URL", "HOME", "_HYPEMAN_LIBVIRT_COMPLETE"]
    assert list(unknown_variables([*settings, *others])) == []
