#!/usr/bin/env bash
# Audits the dependencies: known vulnerabilities of the pinned versions, and licences. See launch/audit.py for the exit
# status; 3 also if the tools could not be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh all,test,evidence || exit 3
exec .venv/bin/python launch/audit.py
