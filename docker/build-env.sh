# Sourced by the build steps that download: the host's mirrors, proxies and CA, without leaving any of them in a layer.
if [ -f /run/secrets/net ]; then . /run/secrets/net; fi
mkdir -p /tmp/apt/sources.list.d
touch /tmp/apt/sources.list
cp -r /etc/apt/sources.list* /tmp/apt/
find /tmp/apt -type f -exec sed -i "s|http://deb.debian.org/debian|${DEBIAN_MIRROR:-http://deb.debian.org/debian}|" {} +
cat >/tmp/apt/apt.conf <<END
Dir::Etc::sourcelist "/tmp/apt/sources.list";
Dir::Etc::sourceparts "/tmp/apt/sources.list.d";
END
if [ -f /run/secrets/ca ]; then
    export SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca
    echo 'Acquire::https::CAInfo "/run/secrets/ca";' >>/tmp/apt/apt.conf
fi
export APT_CONFIG=/tmp/apt/apt.conf DEBIAN_FRONTEND=noninteractive
