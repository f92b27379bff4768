#!/bin/sh
# Writes the secrets that docker-compose.yml and deploy/kubernetes mount as files, into a folder that only its owner
# can enter. What is there is kept. The files are readable for all, since containers read them as another user.
#   sh deploy/secrets.sh [FOLDER]        POSTGRES_HOST and REDIS_HOST: where the servers are
set -eu
folder=${1:-secrets}
postgres=${POSTGRES_HOST:-postgres:5432}
redis=${REDIS_HOST:-redis:6379}
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
write() { # NAME VALUE
    test -e "$1" || printf '%s\n' "$2" > "$1"
    chmod 444 "$1"
}

for name in postgres_password service_password redis_password admin_key; do write "$name" "$(secret)"; done
write migration_database_url "postgresql://errata:$(cat postgres_password)@$postgres/errata"
write database_url "postgresql://errata_service:$(cat service_password)@$postgres/errata"
write redis_url "redis://:$(cat redis_password)@$redis/0"
write redis_conf "requirepass $(cat redis_password)
appendonly yes"
