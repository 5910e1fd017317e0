#!/bin/sh
# Prints which of the programs that the tests call are missing, by the name of their Debian package.
set -eu
need() { command -v "$1" >/dev/null 2>&1 || printf '%s ' "$2"; }
need chromium chromium
need dciodvfy dicom3tools
fonts=$(find /usr/share/fonts -name 'DejaVuSans.ttf' 2>/dev/null | head -1)
[ -n "$fonts" ] || printf '%s ' fonts-dejavu-core
