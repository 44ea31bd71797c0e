#!/bin/sh
# A replacement of docker for the tests of scripts/deploy. Its state is in files below $FAKE:
#   images/<tag>     the id of the image with this tag. In the name of the file, `_` replaces `/` and `:`
#   containers       one line for each container: its id, its service, the id of its image, its settings (`plain` if absent)
#                    and its state (`running` if absent)
#   next             the last number that `compose up` has given to a container
#   calls            the calls of build, exec, pull, run, stop and up, in order, except `up` of servers and with --no-start
#   servers          the calls of `compose up` for other services than the API and the workers
#   services         the services of compose.yaml, which the test writes. `compose config --services` prints `api-2` and `caddy`
#                    only with a profile
#   sql              the standard input of the last `compose exec`
# Variables; WORKERS and SETTINGS may also be in .env:
#   WORKERS          the number of workers that `compose config` prints
#   SETTINGS         the settings of new containers, which the real compose.yaml and .env determine: one word
#   MIGRATE_STATUS   the exit code of `compose run` without --detach, which runs the migrations
#   EXEC_STATUS      the exit code of `compose exec`
#   PS_STATUS        the exit code of `docker ps`, without output if it is not 0
#   RM_STATUS        the exit code of `docker rm` without --force, which removes nothing if it is not 0
#   BROKEN           a service and an image id, separated by a space: containers of this service with this image are not
#                    healthy. The service `trial` is the API without its port. A third word restricts it to these settings
#   RESTARTED        the same for containers that are healthy, but have restarted in the past
#   LOOPING          the same for containers that restart again and again
#   SOURCE           the id of the image that is built or pulled
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

# Prints a variable of the environment or of .env, or else $2.
setting() {
    eval "value=\${$1:-}"
    if [ -z "$value" ] && [ -f .env ]; then
        value=$(. ./.env && eval "echo \"\${$1:-}\"")
    fi
    echo "${value:-$2}"
}

record() {
    echo "$*" >>"$FAKE/calls"
}

# Adds a container of the service $1 with the id $2 and the state $3.
add_container() {
    echo "$2 $1 $(image_id "${SAAS_IMAGE:-saas}") $(setting SETTINGS plain) $3" >>"$FAKE/containers"
}

next_id() {
    next=$(($(cat "$FAKE/next") + 1))
    echo "$next" >"$FAKE/next"
    echo "$1-$next"
}

remove_container() {
    grep -v "^$1 " "$FAKE/containers" >"$FAKE/rest" || true
    mv "$FAKE/rest" "$FAKE/containers"
}

set_state() {
    awk -v id="$1" -v state="$2" '$1 == id { $4 = $4 == "" ? "plain" : $4; $5 = state } { print }' "$FAKE/containers" >"$FAKE/rest"
    mv "$FAKE/rest" "$FAKE/containers"
}

# Prints the ids of the containers of the service $1, whose state matches the regular expression $2.
ids_of() {
    awk -v service="$1" -v state="^($2)\$" '$2 == service && ($5 == "" ? "running" : $5) ~ state { print $1 }' "$FAKE/containers"
}

# Prints the fields of the container $1: service, image, settings, state.
fields() {
    awk -v id="$1" '$1 == id { print $2, $3, $4 == "" ? "plain" : $4, $5 == "" ? "running" : $5 }' "$FAKE/containers"
}

# Succeeds if $1 describes the container with the service $2, the image $3 and the settings $4.
is_one_of() {
    case "$1" in
    "$2 $3" | "$2 $3 $4") true ;;
    *) false ;;
    esac
}

# docker compose up: replaces the containers that have another image than $SAAS_IMAGE or other settings, unless --no-recreate is
# given. Starts stopped containers, unless --no-start is given. Then adds or removes containers: each named service gets the
# number of --scale, or keeps its number. Without a named service, `worker` and `api` get one each.
compose_up() {
    recreate=yes scale='' services='' start=yes
    while [ $# -gt 0 ]; do
        case "$1" in
        --no-recreate) recreate=no ;;
        --no-start) start=no ;;
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
        wanted="$service $(image_id "${SAAS_IMAGE:-saas}") $(setting SETTINGS plain)"
        for id in $(ids_of "$service" '.*'); do
            found=$(fields "$id")
            if [ "$recreate" = yes ] && [ "${found% *}" != "$wanted" ]; then
                remove_container "$id"
                add_container "$service" "$(next_id "$service")" running
            elif [ "$start" = yes ]; then
                set_state "$id" running
            fi
        done
        # shellcheck disable=SC2046
        set -- $(ids_of "$service" '.*')
        wanted=${scale:-$#}
        [ -n "$services" ] || wanted=1
        while [ $# -lt "$wanted" ]; do
            if [ "$start" = yes ]; then
                add_container "$service" "$(next_id "$service")" running
            else
                add_container "$service" "created-$service" created
            fi
            set -- "$@" new
        done
        while [ $# -gt "$wanted" ]; do
            remove_container "$1"
            shift
        done
    done
}

compose() {
    profiles=
    while :; do
        case "$1" in
        --profile) profiles=$2 ;;
        --progress) ;;
        *) break ;;
        esac
        shift 2
    done
    case "$1" in
    version) ;;
    config)
        if [ $# -eq 1 ]; then
            printf 'name: fake\nservices:\n  api:\n    image: none\n  worker:\n    deploy:\n      replicas: %s\n    image: %s\n' \
                "$(setting WORKERS 1)" "${SAAS_IMAGE:-saas}"
        elif [ -n "$profiles${COMPOSE_PROFILES:-}" ]; then
            cat "$FAKE/services"
        else
            grep -vx -e api-2 -e caddy "$FAKE/services"
        fi
        ;;
    ps) printf '%s\n' postgres redis && awk '$2 != "trial" { print $2 }' "$FAKE/containers" | sort -u ;;
    rm)
        for id in $(ids_of "$3" 'exited|created'); do
            remove_container "$id"
        done
        ;;
    build)
        record "build $2 as ${SAAS_IMAGE:-saas}"
        echo "$SOURCE" >"$(tag_file "${SAAS_IMAGE:-saas}")"
        ;;
    run)
        image=$(image_id "${SAAS_IMAGE:-saas}")
        if [ "$2" = --detach ]; then
            # run --detach --no-deps --name NAME api
            record "run --detach $6 with $image"
            [ -z "$(fields "$5")" ] || exit 125
            add_container trial "$5" running
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
        case "$*" in
        *--no-start*) ;;
        *worker | *api | *api-2) record "$*" ;;
        *)
            echo "$*" >>"$FAKE/servers"
            exit 0
            ;;
        esac
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
    case "$3" in
    *@* | sha256:*)
        echo "refusing to create a tag with a digest reference" >&2
        exit 1
        ;;
    esac
    id=$(image_id "$2")
    echo "$id" >"$(tag_file "$3")"
    ;;
pull)
    record "$*"
    echo "$SOURCE" >"$(tag_file "$2")"
    ;;
image) image_id "$5" ;;
ps)
    [ "${PS_STATUS:-0}" -eq 0 ] || exit "$PS_STATUS"
    case "$*" in
    *label=com.docker.compose.project=fake*label=com.docker.compose.oneoff=False*) ;;
    *) exit 64 ;;
    esac
    service=${*#*label=com.docker.compose.service=}
    case "$*" in
    *status=created*) states=created ;;
    *--all*) states='.*' ;;
    *) states=running ;;
    esac
    ids_of "${service%% *}" "$states"
    ;;
inspect)
    found=$(fields "$4")
    [ -n "$found" ] || exit 1
    # shellcheck disable=SC2086
    set -- "$3" "$4" $found
    case "$1" in
    '{{.Image}}') echo "$4" ;;
    '{{.Image}} {{index .Config.Labels "com.docker.compose.config-hash"}}') echo "$4 $5" ;;
    '{{.State.Running}}') if [ "$6" = running ]; then echo true; else echo false; fi ;;
    '{{.RestartCount}} '*)
        if [ "$6" != running ] || is_one_of "${BROKEN:-}" "$3" "$4" "$5"; then
            echo "1 unhealthy"
        elif is_one_of "${RESTARTED:-}" "$3" "$4" "$5"; then
            echo "3 healthy"
        elif is_one_of "${LOOPING:-}" "$3" "$4" "$5"; then
            echo x >>"$FAKE/restarts"
            echo "$(wc -l <"$FAKE/restarts" | tr -d ' ') starting"
        else
            echo "0 healthy"
        fi
        ;;
    *) exit 64 ;;
    esac
    ;;
stop)
    record "$*"
    shift
    for id in "$@"; do
        set_state "$id" exited
    done
    ;;
rm)
    shift
    if [ "$1" = --force ]; then
        shift
    elif [ "${RM_STATUS:-0}" -ne 0 ]; then
        exit "$RM_STATUS"
    fi
    for id in "$@"; do
        remove_container "$id"
    done
    ;;
logs) echo "log of $4" ;;
*) exit 64 ;;
esac
