"""The audit of dependencies: what counts as audited, and which licences are accepted."""

import importlib.metadata
import importlib.util
from email.message import Message
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
_spec = importlib.util.spec_from_file_location("audit", LAUNCH / "audit.py")
audit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(audit)


class Stated(importlib.metadata.Distribution):
    def __init__(self, **fields):
        self.fields = Message()
        for name, value in fields.items():
            for one in value if isinstance(value, list) else [value]:
                self.fields[name.replace("_", "-")] = one

    metadata = property(lambda self: self.fields)

    def read_text(self, filename):
        return None

    def locate_file(self, path):
        raise NotImplementedError


def test_pins_of_the_constraints():
    assert audit.pins("# a\njax==0.10.2\n#beam: pillow==1\na.b_c==1 # why\njax==0.10.2\n\n") == [
        "jax==0.10.2",
        "a.b_c==1",
    ]
    assert len(audit.pins(audit.CONSTRAINTS.read_text())) > 200


def test_a_package_that_the_index_does_not_know_is_not_audited():
    found = {
        "dependencies": [
            {"name": "a", "version": "1", "vulns": []},
            {"name": "b", "skip_reason": "Dependency not found on PyPI and could not be audited: b (1)"},
            {
                "name": "c", "version": "2",
                "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}, {"id": "X", "fix_versions": []}],
            },
        ]
    }  # fmt: skip
    known, skipped = audit.vulnerabilities(found)
    assert known == ["c 2: PYSEC-1, mended in 3", "c 2: X, mended in no version"] and skipped == ["b"]


@pytest.mark.parametrize(
    "fields, stated, accepted",
    [
        ({"License_Expression": "MIT", "License": "text"}, "MIT", True),
        ({"License_Expression": "(GPL-3.0-only OR MIT) AND BSD-3-Clause"}, None, True),
        ({"License_Expression": "Apache-2.0 WITH LLVM-exception"}, None, True),
        ({"License_Expression": "GPL-2.0-only"}, None, False),
        ({"License_Expression": "(MIT OR GPL-2.0-only) AND GPL-2.0-only"}, None, False),
        ({"License_Expression": "MIT OR (GPL-2.0-only WITH Classpath-exception-2.0)"}, None, True),
        ({"License_Expression": "MIT AND GPL-2.0-only"}, None, False),
        ({"License": "Apache License 2.0"}, "Apache-2.0", True),
        ({"Classifier": ["Topic :: X", "License :: OSI Approved :: BSD License"]}, "BSD", True),
        ({"Classifier": ["License :: OSI Approved", "License :: OSI Approved :: GNU General Public License (GPL)"]},
         "GNU General Public License (GPL)", False),
        ({"License": "UNKNOWN"}, "", False),
        ({}, "", False),
        ({"Name": "namex"}, "Apache-2.0", True),
    ],
)  # fmt: skip
def test_licences(fields, stated, accepted):
    found = audit.licence(Stated(**fields))
    assert stated is None or found == stated
    assert audit.is_accepted(found) == accepted


def test_an_audit_that_did_not_finish_is_no_clean_one(monkeypatch):
    class Done:
        stdout, stderr = "", "warning\nConnectionError: no such host\n"

    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: Done)
    with pytest.raises(RuntimeError, match="no such host"):
        audit.audit(["a==1"])
    monkeypatch.setattr(audit, "installed", lambda: [("a", "1", "MIT")])
    monkeypatch.setattr(audit.sys, "argv", ["audit.py"])
    assert audit.main() == audit.NOT_AUDITED
    monkeypatch.setattr(audit, "installed", lambda: [("a", "1", "GPL-2.0-only")])
    assert audit.main() == 1
