"""What Docker writes into the files that are its own is told from what a container wrote there."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from docker_livemig.containers import ContainerSpec
from docker_livemig.ownfiles import edited_files, hosts_edit
from tests.unit.test_containers import SPEC

LINES_20_10 = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
LINES_29 = LINES_20_10.replace("::0\t", "::\t")
WITHOUT_IPV6 = "127.0.0.1\tlocalhost\n"
NAMED = replace(
    SPEC,
    addresses=("172.17.0.2/16", "2001:db8::2/64"),
    config={"Hostname": "web", "Domainname": "example.org"},
    host_config={"ExtraHosts": ["x:10.1.2.3", "six:2001:db8::9", "gate:host-gateway"]},
)
OWN = "172.17.0.2\tweb.example.org web\n"
EXTRA = "10.1.2.3\tx\n"


@pytest.mark.parametrize(
    "text",
    [
        LINES_20_10 + EXTRA + "2001:db8::9\tsix\n172.17.0.1\tgate\n" + OWN,
        LINES_29 + EXTRA + "2001:db8:0::9\tsix\n172.17.0.1\tgate\n" + OWN + OWN.replace("172", "#"),
        LINES_29 + EXTRA + "2001:db8::2\tweb.example.org web\n" + OWN,
        LINES_20_10 + EXTRA + OWN.replace(".0.2", ".0.9") + OWN,
        WITHOUT_IPV6 + EXTRA + OWN,
        "# what Docker may say some day\n\n" + LINES_29 + EXTRA,
    ],
)
def test_what_docker_writes_is_no_edit(text: str) -> None:
    assert hosts_edit(text, NAMED) == ""


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        (LINES_29 + EXTRA + OWN + "10.9.9.9 db\n", "its line '10.9.9.9 db'"),
        (LINES_29 + EXTRA + "10.9.9.9 web\n", "its line '10.9.9.9 web'"),
        (LINES_29 + EXTRA + "127.0.0.1 web\n", "its line '127.0.0.1 web'"),
        (LINES_29 + EXTRA + "172.17.0.2 web shop\n", "its line '172.17.0.2 web shop'"),
        (LINES_29 + EXTRA + "127.0.0.1 blocked.example\n", "its line '127.0.0.1 blocked.example'"),
        (LINES_29 + OWN, "it lacks x"),
        (OWN + EXTRA, "it lacks localhost"),
        ("", "it lacks localhost, x"),
    ],
)
def test_what_a_container_wrote_is_named(text: str, edit: str) -> None:
    assert hosts_edit(text, NAMED) == edit


def test_a_name_that_was_split_by_docker() -> None:
    spec = replace(SPEC, addresses=("172.17.0.4/16",), config={"Hostname": "h.example.com"})
    assert hosts_edit(WITHOUT_IPV6 + "172.17.0.4\th.example.com h\n", spec) == ""


@pytest.fixture
def kept(tmp_path: Path) -> ContainerSpec:
    """A container whose files, as Docker wrote them, are in a directory of the test."""
    resolver = b"nameserver 10.0.0.1\n"
    digest = hashlib.sha256(resolver).hexdigest()
    (tmp_path / "hosts").write_text(LINES_20_10)
    (tmp_path / "hostname").write_text("h\n")
    (tmp_path / "resolv.conf").write_bytes(resolver)
    (tmp_path / "resolv.conf.hash").write_text(f"sha256:{digest}")
    return replace(SPEC, directory=str(tmp_path))


@contextmanager
def process() -> Iterator[int]:
    """Yield a process that is younger than what was written before."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        yield child.pid


def test_files_that_nobody_changed(kept: ContainerSpec) -> None:
    assert list(edited_files(kept, 1)) == []


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("hosts", "127.0.0.1 localhost other\n", "its line '127.0.0.1 localhost other'"),
        ("hostname", "other\n", "it says 'other', not 'h'"),
        ("resolv.conf", "nameserver 10.9.9.9\n", "another digest"),
        ("resolv.conf", "nameserver 127.0.0.11\nnameserver 10.9.9.9\n", "another digest"),
    ],
)
def test_a_file_that_was_changed_is_named_whatever_its_time(
    kept: ContainerSpec, name: str, text: str, words: str
) -> None:
    Path(kept.directory, name).write_text(text)
    os.utime(Path(kept.directory, name), (0, 0))
    (found,) = edited_files(kept, os.getpid())
    assert found.startswith(f"the file /etc/{name}, which was changed inside the container")
    assert words in found


def test_dockers_own_resolver_needs_no_digest(kept: ContainerSpec) -> None:
    own = "search example.org\nnameserver 127.0.0.11\noptions ndots:0\n"
    Path(kept.directory, "resolv.conf").write_text(own)
    assert list(edited_files(kept, 1)) == []


def test_where_docker_keeps_no_digest_the_time_tells(kept: ContainerSpec) -> None:
    file = Path(kept.directory, "resolv.conf")
    file.with_name("resolv.conf.hash").unlink()
    with process() as younger:
        assert list(edited_files(kept, younger)) == []
    os.utime(file, (0, 0))  # changes the time that counts
    (found,) = edited_files(kept, 1)
    assert "resolv.conf" in found


def test_what_is_gone_by_now_is_no_edit(kept: ContainerSpec) -> None:
    assert list(edited_files(replace(kept, directory="/nowhere"), 1)) == []
