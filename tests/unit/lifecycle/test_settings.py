"""What the annotations of a pod come to, for one of its containers."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.lifecycle.defaults import resolve
from zeropod.lifecycle.settings import (
    KNOWN,
    PREFIX,
    Settings,
    SettingsError,
    boolean,
    duration,
    names,
    ports_map,
)
from zeropod.lifecycle.settings import unknown as unknown_annotations
from zeropod.runtime.quantity import quantity

NANOSECONDS = {"ns": 1, "us": 10**3, "\u00b5s": 10**3, "\u03bcs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
NANOSECONDS["h"] = 60 * NANOSECONDS["m"]

WHOLE = st.integers(0, 999).map(str)
FRACTION = st.text("0123456789", min_size=1, max_size=9)
NUMBERS = st.one_of(
    WHOLE, st.builds("{}.{}".format, WHOLE, FRACTION), WHOLE.map("{}.".format), FRACTION.map(".{}".format)
)
PARTS = st.lists(st.tuples(NUMBERS, st.sampled_from(sorted(NANOSECONDS))), min_size=1, max_size=6)


def annotations(**values: str) -> dict[str, str]:
    return {PREFIX + key.replace("_", "-"): value for key, value in values.items()}


def parse(annotations: dict[str, str], container: str) -> Settings:
    """What holds for a container of a pod that has nothing from elsewhere."""
    return resolve(annotations, {}, container).settings


@given(PARTS)
def test_a_go_duration_is_the_sum_of_its_parts(parts: list[tuple[str, str]]) -> None:
    expected = sum(Decimal(number) * NANOSECONDS[unit] for number, unit in parts) / 10**9
    assert duration("".join(number + unit for number, unit in parts)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("0s", 0.0), ("1m30s", 90.0), ("500ms", 0.5), ("1.5h", 5400.0), (".5s", 0.5), ("2h45m", 9900.0)],
)
def test_durations_read_as_go_writes_them(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", ".s", "-5s", "5 s", "5s ", "5sec", "1m30", "s5", "1d", "1e3s", "\u0663s", "1m-1s", "nan", "infs"],
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as 30s"):
        duration(text)


@pytest.mark.parametrize("text", ["9" * 19 + "h", "9" * 400 + "h", "9" * 5000 + "ns", "2562048h"])
def test_a_duration_that_go_could_not_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as"):
        duration(text)


@given(st.text())
def test_no_text_makes_the_parsers_fail_in_another_way(text: str) -> None:
    for parser in (duration, quantity, boolean, names, ports_map):
        try:
            parser(text)
        except ValueError as error:
            assert "limit" not in str(error)  # noqa: PT017 - of Python's own, for digits


BYTES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
BYTES |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}


@given(NUMBERS, st.sampled_from(sorted(BYTES)))
def test_a_quantity_is_its_number_times_its_suffix_rounded_up_to_bytes(number: str, suffix: str) -> None:
    expected = math.ceil(Fraction(number) * BYTES[suffix])
    if expected < 2**63:
        assert quantity(number + suffix) == expected
    else:
        with pytest.raises(ValueError, match="below 8Ei"):
            quantity(number + suffix)


@given(NUMBERS, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 15))
def test_a_quantity_with_an_exponent_is_its_number_times_a_power_of_ten(
    number: str, letter: str, sign: str, exponent: int
) -> None:
    power = -exponent if sign == "-" else exponent
    assert quantity(f"{number}{letter}{sign}{exponent}") == math.ceil(Fraction(number) * Fraction(10) ** power)


@given(st.integers(0, 2**63 - 1))
def test_a_plain_number_is_bytes(count: int) -> None:
    assert quantity(str(count)) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("64Mi", 64 << 20), ("1.5G", 1_500_000_000), ("5e6", 5_000_000), ("1E", 10**18), ("1E3", 1000)],
)
def test_quantities_read_as_kubernetes_writes_them(text: str, count: int) -> None:
    assert quantity(text) == count


@pytest.mark.parametrize(
    "text",
    ["", "-1", "Mi", ".", "64mi", "64KB", "64K", "64MiB", "100m", "5u", "64 Mi", "1e", "1e3Mi", "1e999", "0x10", "1_0"],
)
def test_what_is_no_number_of_bytes_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="a number of bytes such as 64Mi"):
        quantity(text)


@pytest.mark.parametrize("text", ["8Ei", "9" * 19, "10E", "1e19", "1e99"])
def test_more_bytes_than_kubernetes_could_hold_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="below 8Ei"):
        quantity(text)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("1", True), ("FALSE", False), ("0", False)]
)
def test_booleans_are_read_in_any_case(text: str, value: bool) -> None:
    assert boolean(text) is value


@pytest.mark.parametrize("text", ["", "yes", "on", "2", "truth"])
def test_other_words_are_no_booleans(text: str) -> None:
    with pytest.raises(ValueError, match="true or false"):
        boolean(text)


def test_names_are_separated_by_commas_and_blanks_do_not_matter() -> None:
    assert names(" web, api ,,worker") == {"web", "api", "worker"}
    assert names("") == frozenset()


def test_a_ports_map_lists_ports_for_each_container() -> None:
    assert ports_map("nginx=80,81; sidecar = 8080 ;") == {"nginx": {80, 81}, "sidecar": {8080}}
    assert ports_map("") == {}


NAME = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1)
PORTS = st.frozensets(st.integers(1, 65535), min_size=1, max_size=5)


@given(st.dictionaries(NAME, PORTS))
def test_any_ports_map_comes_back_as_it_was_written(ports: dict[str, frozenset[int]]) -> None:
    text = ";".join(f"{name}={','.join(map(str, sorted(numbers)))}" for name, numbers in ports.items())
    assert ports_map(text) == ports


@pytest.mark.parametrize(
    "text",
    [
        "nginx",
        "nginx=",
        "=80",
        "nginx=0",
        "nginx=65536",
        "nginx=http",
        "nginx=80,",
        "a=1;b",
        "a=-1",
        "a=\u0661",
        "a=" + "1" * 9999,
    ],
)
def test_a_ports_map_with_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="container=port,port"):
        ports_map(text)


def test_without_annotations_everything_is_as_documented() -> None:
    assert parse({}, "web") == Settings()
    assert parse({}, "web").scaledown == 60.0
    assert parse({}, "web").standby
    assert parse({}, "web").standby_max_resident == 67_108_864
    assert parse({}, "web").standby_memory == "auto"
    assert parse({}, "web").wake_on_stop


@pytest.mark.parametrize("word", ["auto", "swap", "store", "resident"])
def test_the_memory_of_a_container_in_standby_has_one_of_four_places(word: str) -> None:
    assert parse(annotations(standby_memory=f" {word} "), "web").standby_memory == word


@pytest.mark.parametrize("word", ["", "Swap", "disk", "swap,store"])
def test_any_other_place_is_refused_with_all_that_there_are(word: str) -> None:
    with pytest.raises(SettingsError, match="is not auto, swap, store or resident"):
        parse(annotations(standby_memory=word), "web")


def test_every_annotation_has_its_setting() -> None:
    given = annotations(
        scaledown_duration=" 10s ",
        container_names="web",
        ports_map="web=80;other=1",
        pre_dump="true",
        disable_checkpointing="1",
        connect_timeout="5s",
        proxy_timeout="1m",
        standby="false",
        standby_duration="1h",
        standby_max_resident="1Gi",
        standby_memory="store",
        tcp_established="false",
        wake_on_stop="false",
        disable_probe_detection="true",
        probe_buffer_size="4Ki",
        probe_processes="kubelet,my-prober",
        io_uring="true",
        localhost_traffic="true",
        dry_run="true",
        migrate="web,other",
        live_migrate=" web ",
        keep_on_restart="true",
        disable_migrate_data="true",
    )
    assert set(given) == {PREFIX + key for key in KNOWN}
    assert parse(given, "web") == Settings(
        scaledown=10.0,
        selected=True,
        ports=frozenset({80}),
        pre_dump=True,
        disable_checkpointing=True,
        connect_timeout=5.0,
        proxy_timeout=60.0,
        standby=False,
        standby_duration=3600.0,
        standby_max_resident=1 << 30,
        standby_memory="store",
        tcp_established=False,
        wake_on_stop=False,
        disable_probe_detection=True,
        probe_buffer_size=4096,
        probe_processes=frozenset({"kubelet", "my-prober"}),
        io_uring=True,
        localhost_traffic=True,
        dry_run=True,
        migrate=True,
        live_migrate=True,
        keep_on_restart=True,
        disable_migrate_data=True,
    )


@pytest.mark.parametrize("key", ["migrate", "live-migrate"])
@pytest.mark.parametrize("text", ["web;api", "web api", "true!", "../web", "-"])
def test_what_cannot_be_the_name_of_a_container_does_not_move(key: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"{key}: .* is not names of containers"):
        parse({PREFIX + key: text}, "web")


def test_only_the_containers_that_are_named_may_move() -> None:
    given = annotations(migrate="web", live_migrate="api")
    found = [parse(given, name) for name in ("web", "api", "db")]
    assert [each.migrate for each in found] == [True, False, False]
    assert [each.live_migrate for each in found] == [False, True, False]
    assert [each.may_move for each in found] == [True, True, False]
    assert parse(annotations(keep_on_restart="true"), "web").may_move
    assert not parse(annotations(migrate=" , "), "web").may_move


@pytest.mark.parametrize("key", sorted(KNOWN - {"container-names", "probe-processes", "migrate", "live-migrate"}))
def test_a_bad_value_names_the_annotation_and_the_value(key: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        parse({PREFIX + key: "soon"}, "web")
    assert str(refusal.value).startswith(f"annotation {PREFIX}{key}: 'soon' is not ")


def test_a_bad_value_for_another_container_fails_this_one_too() -> None:
    with pytest.raises(SettingsError, match="ports-map"):
        parse(annotations(ports_map="web=80;other=http"), "web")


def test_only_the_containers_that_are_named_are_meant() -> None:
    given = annotations(container_names="web, api")
    assert [parse(given, name).selected for name in ("web", "api", "worker")] == [True, True, False]


def test_a_list_without_names_means_every_container() -> None:
    assert parse(annotations(container_names=" , "), "web").selected


def test_ports_belong_to_the_container_that_they_are_given_for() -> None:
    given = annotations(ports_map="web=80,443")
    assert parse(given, "web").ports == {80, 443}
    assert parse(given, "api").ports == frozenset()


def test_slips_of_the_pen_are_found_among_our_own_annotations() -> None:
    given = annotations(scaledown_duration="1m", scale_down_duration="1m", port_map="a=1")
    given |= {"io.kubernetes.cri.container-name": "web", "zeropod.example.com/scaledown": "1m"}
    assert unknown_annotations(given) == [PREFIX + "port-map", PREFIX + "scale-down-duration"]
