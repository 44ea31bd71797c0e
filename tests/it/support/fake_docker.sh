#!/bin/sh
# A replacement of docker for the tests of scripts/deploy. Its state is in files below $FAKE:
#   images/<tag>     the id of the image with this tag. In the name of the file, `_` replaces `/` and `:`
#   containers       one line for each container: its id, its service, the id of its image
#   next             the number of the last container that `compose up` has created
#   calls            the calls of build, exec, pull, run, stop and up, in order
#   services         the output of `compose config`, which the test writes
#   sql              the standard input of the last `compose exec`
# $MIGRATE_STATUS is the exit code of `compose run` without --detach, which runs the migrations. $EXEC_STATUS is the exit code of
# `compose exec`.
# $BROKEN is a service and an image id, separated by a space: containers of this service with this image are not healthy. The
# service `trial` is the API without its port.
# $SOURCE is the id of the image that is built or pulled.
set -eu

tag_file() {
    echo "$FAKE/images/$(echo "$1" | tr '/:' '__')"
}

image_id() {
    case "$1" in
    sha256:*) echo "$1" ;;
    *) cat "$(tag_file "$1")" 2>/dev/null ;;
    esac
}

record() {
    echo "$*" >>"$FAKE/calls"
}

add_container() {
    next=$(($(cat "$FAKE/next") + 1))
    echo "$next" >"$FAKE/next"
    echo "$1-$next $1 $(image_id "${SAAS_IMAGE:-saas}")" >>"$FAKE/containers"
}

remove_container() {
    grep -v "^$1 " "$FAKE/containers" >"$FAKE/rest" || true
    mv "$FAKE/rest" "$FAKE/containers"
}

ids_of() {
    awk -v service="$1" '$2 == service { print $1 }' "$FAKE/containers"
}

# docker compose up: replaces the containers whose image is not $SAAS_IMAGE, unless --no-recreate is given. Then adds or removes
# containers: each named service gets the number of --scale, or keeps its number. Without a named service, each service gets one.
compose_up() {
    recreate=yes scale='' services=''
    while [ $# -gt 0 ]; do
        case "$1" in
        --no-recreate) recreate=no ;;
        --scale)
            scale=${2#*=}
            shift
            ;;
        -*) ;;
        *) services="$services $1" ;;
        esac
        shift
    done
    for service in ${services:-worker api}; do
        for id in $(ids_of "$service"); do
            current=$(awk -v id="$id" '$1 == id { print $3 }' "$FAKE/containers")
            if [ "$recreate" = yes ] && [ "$current" != "$(image_id "${SAAS_IMAGE:-saas}")" ]; then
                remove_container "$id"
                add_container "$service"
            fi
        done
        # shellcheck disable=SC2046
        set -- $(ids_of "$service")
        wanted=${scale:-$#}
        [ -n "$services" ] || wanted=1
        while [ $# -lt "$wanted" ]; do
            add_container "$service"
            set -- "$@" new
        done
        while [ $# -gt "$wanted" ]; do
            remove_container "$1"
            shift
        done
    done
}

compose() {
    if [ "$1" = --profile ]; then
        shift 2
    fi
    case "$1" in
    version) ;;
    config) [ "$2" = --quiet ] || cat "$FAKE/services" ;;
    ps) ids_of "$3" ;;
    rm) ;;
    build)
        record "build $2 as ${SAAS_IMAGE:-saas}"
        echo "$SOURCE" >"$(tag_file "${SAAS_IMAGE:-saas}")"
        ;;
    run)
        image=$(image_id "${SAAS_IMAGE:-saas}")
        if [ "$2" = --detach ]; then
            # run --detach --no-deps --name NAME api
            record "run --detach $6 with $image"
            echo "$5 trial $image" >>"$FAKE/containers"
            exit 0
        fi
        record "$* with $image"
        exit "${MIGRATE_STATUS:-0}"
        ;;
    exec)
        record "exec $3 $4"
        cat >"$FAKE/sql"
        exit "${EXEC_STATUS:-0}"
        ;;
    up)
        record "$*"
        shift
        compose_up "$@"
        ;;
    *) exit 64 ;;
    esac
}

case "$1" in
compose)
    shift
    compose "$@"
    ;;
tag)
    id=$(image_id "$2")
    echo "$id" >"$(tag_file "$3")"
    ;;
pull)
    record "$*"
    echo "$SOURCE" >"$(tag_file "$2")"
    ;;
image) image_id "$5" ;;
inspect)
    container=$(awk -v id="$4" '$1 == id { print $2, $3 }' "$FAKE/containers")
    case "$3 $container" in
    *" ") exit 1 ;;
    "{{.Image}} "*) echo "${container#* }" ;;
    *" ${BROKEN:-none}") echo "1 unhealthy" ;;
    *) echo "0 healthy" ;;
    esac
    ;;
stop) record "$*" ;;
rm)
    shift
    for id in "$@"; do
        remove_container "$id"
    done
    ;;
logs) echo "log of $4" ;;
*) exit 64 ;;
esac
