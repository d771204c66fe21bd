#!/bin/sh
# Makes the cluster's certificates once, and gives each role a volume with its own files only: the
# CA's key never leaves the volume `certs`.
set -eu
[ -f /certs/ca.pem ] || squall certs /certs --host nats
give() { # give VOLUME FILE...
  volume=$1
  shift
  for file in "$@"; do
    cp "/certs/$file" "/roles/$volume/$file"
  done
}
give nats ca.pem server.pem server.key users.conf
give back ca.pem back.pem back.key
give front ca.pem front.pem front.key
give tap ca.pem tap.pem tap.key
