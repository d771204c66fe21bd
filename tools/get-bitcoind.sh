#!/usr/bin/env bash
# Puts a bitcoind for regtest into DIR (see back/chain/get-bitcoind.sh). Usage: tools/get-bitcoind.sh DIR
exec "$(dirname "$(readlink -f "$0")")/../back/chain/get-bitcoind.sh" "$@"
