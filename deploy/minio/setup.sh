#!/bin/sh
# Make the bucket, and a user for each service that needs bytes, with what it may do and nothing more. Run again after
# a secret was changed: whatever exists is brought up to date.
#
# Takes S3_ENDPOINT and S3_BUCKET; /run/secrets/s3_root and s3_<service> hold the secret keys.
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
    printf '%s\n%s\n' "batchyard-$1" "$(cat "/run/secrets/s3_$(echo "$1" | tr - _)")" | mc admin user add root
}

try set_alias
try mc mb --ignore-existing "root/$S3_BUCKET"

for service in gateway file-store batch-runner; do
    sed "s/BUCKET/$S3_BUCKET/g" "/etc/batchyard-minio/$service.json" >"/tmp/$service.json"
    try mc admin policy create root "batchyard-$service" "/tmp/$service.json"
    try add_user "$service"
    # Attaching what is attached already is an error.
    mc admin policy attach root "batchyard-$service" --user "batchyard-$service" \
        || mc admin user info root "batchyard-$service" | grep -q "batchyard-$service\$"
done
echo "setup: bucket $S3_BUCKET and its users are ready"
