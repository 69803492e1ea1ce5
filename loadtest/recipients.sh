#!/bin/sh
# Prints a CSV of N recipients for the template `order_update`. All phone numbers are different, and none is in use.
#
#   loadtest/recipients.sh 100000 > recipients.csv
set -eu
n=${1:-}
case $n in
'' | *[!0-9]* | ????????*) echo "usage: $0 N  (N from 0 to 9999999)" >&2; exit 2 ;;
esac
awk -v n="$n" 'BEGIN {
    print "to,1,2"
    for (i = 0; i < n; i++) printf "+549114%07d,Cliente %d,A-%d\n", i, i, i
}'
