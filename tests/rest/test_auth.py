from __future__ import annotations

import time

import jwt
import pytest

from hypeman_libvirt.devices.errors import ForbiddenError, UnauthorizedError
from hypeman_libvirt.rest.auth import BearerAuth, Identity, NoAuth

SECRET = "s" * 64
PAST, FUTURE = int(time.time()) - 10, int(time.time()) + 3600


def header(
    claims: dict[str, object],
    secret: str = SECRET,
    algorithm: str = "HS256",
    scheme: str = "Bearer",
) -> str:
    return f"{scheme} {jwt.encode(claims, secret, algorithm=algorithm)}"


def identify(authorization: str | None) -> Identity:
    return BearerAuth(SECRET).identify(authorization)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", " Bearer  "])
def test_a_signed_token_says_who_calls(algorithm: str, scheme: str) -> None:
    identity = identify(header({"sub": "ops", "exp": FUTURE}, algorithm=algorithm, scheme=scheme))
    assert identity.subject == "ops"


def test_a_secret_may_be_bytes() -> None:
    assert BearerAuth(SECRET.encode()).identify(header({"sub": "ops"})).subject == "ops"


def test_a_token_needs_neither_a_subject_nor_an_end() -> None:
    assert identify(header({})).subject is None


@pytest.mark.parametrize(
    "claims",
    [{"aud": "another-service"}, {"iss": "somebody"}, {"iat": FUTURE}],
    ids=["audience", "issuer", "clock ahead"],
)
def test_what_hypeman_does_not_check_is_not_checked(claims: dict[str, object]) -> None:
    assert identify(header({"sub": "ops", **claims})).subject == "ops"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        header({}).removeprefix("Bearer "),
        header({}, scheme="Basic"),
        header({}, scheme="Bearer:"),
        "Bearer x",
        "Bearer x.y.z",
        "Bearer größe",
        "Bearer " + "." * 10_000,
        header({}) + " " + header({}),
        header({}) + "x",
        header({}, secret="t" * 64),
        header({"exp": PAST}),
        header({"exp": "soon"}),
        header({"nbf": FUTURE}),
        f"Bearer {jwt.encode({}, '', algorithm='none')}",
    ],
)
def test_anything_else_is_not_let_in(authorization: str | None) -> None:
    with pytest.raises(UnauthorizedError):
        identify(authorization)


def test_an_expired_token_is_said_to_be_one() -> None:
    with pytest.raises(UnauthorizedError, match="expired"):
        identify(header({"exp": PAST}))


def test_an_unsigned_header_over_a_signed_body_is_not_let_in() -> None:
    _, body, signature = header({}).removeprefix("Bearer ").split(".")
    unsigned = jwt.encode({}, "", algorithm="none").split(".")[0]
    for tail in ("", signature):
        with pytest.raises(UnauthorizedError):
            identify(f"Bearer {unsigned}.{body}.{tail}")


@pytest.mark.parametrize("claim", ["repos", "scope", "build_id"])
@pytest.mark.parametrize("value", ["x", [], None, ""])
def test_registry_tokens_do_not_open_the_api(claim: str, value: object) -> None:
    with pytest.raises(UnauthorizedError, match="registry token"):
        identify(header({"sub": "ops", claim: value}))


def test_without_the_claim_everything_is_allowed() -> None:
    identify(header({})).require("device:delete")
    identify(header({"permissions": ["*"]})).require("device:delete")


def test_with_the_claim_only_what_it_names_is_allowed() -> None:
    identity = identify(header({"permissions": ["device:read", "instance:write"]}))
    identity.require("device:read")
    with pytest.raises(ForbiddenError, match="device:write"):
        identity.require("device:write")


@pytest.mark.parametrize(
    "permissions",
    [None, [], "*", "device:read", {"device:read": True}, ["*", 7], [["*"]], 1, True],
)
def test_a_malformed_claim_allows_nothing(permissions: object) -> None:
    identity = identify(header({"permissions": permissions}))
    with pytest.raises(ForbiddenError):
        identity.require("device:read")


@pytest.mark.parametrize("secret", ["", " ", "\n", b""])
def test_without_a_secret_nothing_starts(secret: str | bytes) -> None:
    with pytest.raises(ValueError, match="JWT_SECRET"):
        BearerAuth(secret)


def test_without_auth_everybody_may_do_everything_without_a_name() -> None:
    identity = NoAuth().identify(None)
    identity.require("device:delete")
    assert identity.subject is None


def test_no_error_repeats_the_token() -> None:
    wrong = header({"sub": "ops"}, secret="t" * 64)
    with pytest.raises(UnauthorizedError) as caught:
        identify(wrong)
    assert wrong.split()[1] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_token_that_was_verified_before_still_expires() -> None:
    now = float(FUTURE - 1)
    auth = BearerAuth(SECRET, clock=lambda: now)
    authorization = header({"sub": "ops", "exp": FUTURE})
    assert auth.identify(authorization).subject == "ops"
    now = float(FUTURE)
    with pytest.raises(UnauthorizedError, match="expired"):
        auth.identify(authorization)


def test_what_was_refused_before_is_refused_again() -> None:
    auth = BearerAuth(SECRET)
    for _ in range(2):
        with pytest.raises(UnauthorizedError):
            auth.identify(header({"sub": "ops"}, secret="t" * 64))


def test_a_token_that_never_expires_may_be_refused() -> None:
    auth = BearerAuth(SECRET, require_expiry=True)
    with pytest.raises(UnauthorizedError, match="never expires"):
        auth.identify(header({"sub": "ops"}))
    assert auth.identify(header({"sub": "ops", "exp": FUTURE})).subject == "ops"


def test_each_subject_with_such_a_token_is_warned_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    auth = BearerAuth(SECRET)
    unlimited: list[dict[str, object]] = [{"sub": "ops"}, {"sub": "ops", "n": 1}, {"sub": "ci"}]
    for claims in [*unlimited, {"sub": "x", "exp": FUTURE}]:
        auth.identify(header(claims))
    warnings = [vars(each) for each in caplog.records if "never expires" in each.message]
    assert [each["subject"] for each in warnings] == ["ops", "ci"]
