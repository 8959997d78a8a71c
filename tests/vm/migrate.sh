#!/bin/sh
# In the machine with two nodes: migrate.sh MEMBOX SEE_STOPS SETPRIV SIZE_MB. Prints lines "NAME JSON" and, where something is wrong, what.
membox=$1 victim=$2 setpriv=$3 size=$4
export MEMBOX_RUNTIME_DIR=/run/membox
mkdir -m 700 $MEMBOX_RUNTIME_DIR

await() {
	until [ -e "$1" ]; do usleep 20000; done
}

# start NAME SIZE [PREFIX...]: the victim, its memory on node 0
start() {
	name=$1 megabytes=$2
	shift 2
	mkdir /tmp/"$name"
	"$@" $membox run --detach --name "$name" --limit 2G --swap /tmp/"$name"/swap -- $victim "$megabytes" 4 0 /tmp/"$name" >/tmp/"$name"/out 2>/tmp/"$name"/err
	await /tmp/"$name"/ready
}

# migrate NAME RESULT OPTION...
migrate() {
	name=$1 result=$2
	shift 2
	echo "$result" $($membox migrate "$name" --json "$@" 2>&1)
}

stat() {
	echo "$2" $($membox stat "$1" --json)
}

# finish NAME: the victim checks its memory and says where it is
finish() {
	touch /tmp/"$1"/end
	$membox wait "$1"
	echo "$1.status $?"
	echo "$1.report" $(tail -n 1 /tmp/"$1"/out)
	cat /tmp/"$1"/err
}

start whole "$size"
stat whole whole.before
migrate whole whole.moved --to-node 1
stat whole whole.after
migrate whole whole.again --to-node 1
migrate whole whole.elsewhere --to-node 0 --from-node 0
finish whole

# A target with room for a part of it.
mkdir /tmp/fill
mount -t tmpfs -o size=100%,mpol=bind:1 fill /tmp/fill
room=$(($(sed -n 's/.*MemFree: *\([0-9]*\) kB/\1/p' /sys/devices/system/node/node1/meminfo) / 1024))
dd if=/dev/zero of=/tmp/fill/all bs=1M count=$((room - size / 4)) 2>/dev/null
start tight "$size"
migrate tight tight.moved --to-node 1
finish tight
umount /tmp/fill

# Without the right to move what several processes map.
start bound 4 $setpriv --bounding-set=-sys_nice --inh-caps=-sys_nice
migrate bound bound.moved --to-node 1
finish bound
