#!/bin/bash
# Makes a folder that tests/test_latency_aarch64.py takes for a board: Debian for ARM (aarch64) with Python, NumPy and ONNX
# Runtime, to be run by an emulator. Usage, as root, which debootstrap asks for; about 400 MB and a few minutes:
#
#   apt-get install debootstrap qemu-user-static openssh-server
#   tests/make_arm_root.sh FOLDER
#   NAS_ARM_ROOT=FOLDER python -m pytest tests/test_latency_aarch64.py
#
# Packages are unpacked and not configured: no script of theirs has to be emulated, and Python needs none of them.
# PYTHON names an interpreter with pip; SUITE, MIRROR, ONNXRUNTIME and NUMPY what is fetched, and from where.
set -euo pipefail

root=${1:?usage: make_arm_root.sh FOLDER}
suite=${SUITE:-bookworm}
mirror=${MIRROR:-http://deb.debian.org/debian}
python=${PYTHON:-python3}
emulator=$(command -v qemu-aarch64-static) || { echo "no qemu-aarch64-static: apt-get install qemu-user-static" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "no debootstrap: apt-get install debootstrap" >&2; exit 2; }
[ ! -e "$root" ] || { echo "$root is there already; name a folder that is not" >&2; exit 2; }

# Complete or not there: the folder gets its name at the end.
part=$(mktemp -d "$(dirname "$root")/arm-root.XXXXXX")
trap 'rm -rf "$part"' EXIT
chmod 755 "$part"

debootstrap --foreign --arch=arm64 --variant=minbase --include=python3,libstdc++6 "$suite" "$part" "$mirror"
for package in "$part"/var/cache/apt/archives/*.deb; do
    dpkg-deb --extract "$package" "$part"
done
rm -rf "$part"/var/cache/apt/archives/*.deb "$part/debootstrap"
install -m 755 "$emulator" "$part/usr/bin/"
mkdir -p "$part/root" "$part/tmp"
chmod 1777 "$part/tmp"
echo "0123456789abcdef0123456789abcdef" >"$part/etc/machine-id"  # of a machine of its own, not of the one it runs on

version=$(chroot "$part" /usr/bin/qemu-aarch64-static /usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -m pip install --quiet --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 --target "$part/usr/lib/python3/dist-packages" \
    "numpy${NUMPY:+==$NUMPY}" "onnxruntime${ONNXRUNTIME:+==$ONNXRUNTIME}"

chroot "$part" /usr/bin/qemu-aarch64-static /usr/bin/python3 -c \
    'import platform, numpy, onnxruntime; print(platform.machine(), numpy.__version__, onnxruntime.__version__)'
mv "$part" "$root"
trap - EXIT
