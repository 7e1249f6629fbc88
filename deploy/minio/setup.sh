#!/bin/sh
# Make the bucket, and a user for each service that needs bytes, with what it may do and nothing more. Run again after
# a secret was changed: whatever exists is brought up to date.
#
# Takes S3_ENDPOINT; /run/secrets/s3_root and s3_<service> hold the secret keys. The image has little but a shell: no sed,
# no grep.
set -eu

try() { # A server that has only just come up may refuse for a moment.
    for left in 5 4 3 2 1 0; do
        "$@" && return
        [ "$left" = 0 ] || sleep 1
    done
    echo "setup: $S3_ENDPOINT does not do what it is asked: $1" >&2
    exit 1
}

set_alias() { mc alias set root "$S3_ENDPOINT" batchyard-root "$(cat /run/secrets/s3_root)"; }

add_user() { # Both by standard input: arguments show in a list of processes.
    printf '%s\n%s\n' "batchyard-$1" "$(cat "/run/secrets/s3_$1")" | mc admin user add root
}

attach() { # $1: policy, $2: user. To attach what is attached already is an error.
    mc admin policy attach root "$1" --user "$2" && return
    case $(mc admin user info root "$2") in *"$1"*) ;; *) return 1 ;; esac
}

try set_alias
try mc mb --ignore-existing root/batchyard

for service in gateway file-store batch-runner; do
    try mc admin policy create root "bytes-of-$service" "/etc/batchyard-minio/$service.json"
    try add_user "$service"
    try attach "bytes-of-$service" "batchyard-$service"
done
echo "setup: the bucket and its users are ready"
