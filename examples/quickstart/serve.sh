#!/bin/sh
# Prints the greeting, once or every second.
while :; do
    echo "$(cat /srv/greeting.txt), from $(id -un) in $PWD"
    [ "$1" = once ] && exit 0
    sleep 1
done
