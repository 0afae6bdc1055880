from __future__ import annotations

import pytest

from hypeman_libvirt.cli.token import make_claims, parse_duration

NOW = 1_736_935_200


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1.5h", "1y", "1d ", "٣d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number and s, m, h, d or w"):
        parse_duration(text)


def test_claims_without_permissions_grant_everything() -> None:
    claims = make_claims("alice", NOW, "1h", None)
    assert claims == {"sub": "alice", "iat": NOW, "exp": NOW + 3600}


def test_claims_name_the_permissions() -> None:
    claims = make_claims("alice", NOW, "1h", "device:read, device:write")
    assert claims["permissions"] == ["device:read", "device:write"]


@pytest.mark.parametrize("permissions", ["", "device:reed", "device:read,,*"])
def test_a_permission_that_does_not_exist_is_refused(permissions: str) -> None:
    with pytest.raises(ValueError, match=r"there is no permission .*; use device:read, device:wr"):
        make_claims("alice", NOW, "1h", permissions)
