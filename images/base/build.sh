#!/bin/sh
# Builds a base image from Debian's packages, for machines that reach a Debian mirror but no image registry.
#
#   sudo sh images/base/build.sh [NAME]        NAME: agentexec/base
#
# Needs root and debootstrap. MIRROR names another mirror, SUITE another release than bookworm. Package sources and
# certificate authorities of this machine go into the image: behind a proxy or a private mirror it needs both.
set -eu
name=${1:-agentexec/base}
suite=${SUITE:-bookworm}

[ "$(id -u)" = 0 ] || { echo "debootstrap needs root: type 'sudo sh $0'" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "debootstrap is missing: type 'apt-get install debootstrap'" >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# shellcheck disable=SC2086 # no mirror is no argument
debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates "$suite" "$root" ${MIRROR:-} >"$root.log" 2>&1 ||
  { tail -n 20 "$root.log" >&2; exit 1; }
rm -f "$root.log"

for sources in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
  if [ -z "${MIRROR:-}" ] && [ -f "$sources" ] && grep -q "$suite" "$sources"; then
    rm -f "$root/etc/apt/sources.list"
    cp "$sources" "$root$sources"
    break
  fi
done
if ls /usr/local/share/ca-certificates/*.crt >/dev/null 2>&1; then
  cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
  chroot "$root" update-ca-certificates >/dev/null 2>&1
fi
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/*
# pip brings its own list of authorities unless told.
tar -C "$root" -c . | docker import --change 'ENV LANG=C.UTF-8' \
  --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' --change 'CMD ["python3"]' - "$name"
