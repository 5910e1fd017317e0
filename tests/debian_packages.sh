#!/bin/sh
# Prints what the tests call and the machine lacks, by the names of its Debian packages.
set -eu
need() { command -v "$1" >/dev/null 2>&1 || printf '%s ' "$2"; }
need chromium chromium
need dciodvfy dicom3tools
need storescu dcmtk
need curl curl
need Orthanc orthanc
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || printf '%s ' orthanc-dicomweb
fonts=$(find /usr/share/fonts -name 'DejaVuSans.ttf' 2>/dev/null | head -1)
[ -n "$fonts" ] || printf '%s ' fonts-dejavu-core
# the browser driver's own Node.js is linked against it
atomic=$(find /usr/lib /lib -name 'libatomic.so.1' 2>/dev/null | head -1)
[ -n "$atomic" ] || printf '%s ' libatomic1
