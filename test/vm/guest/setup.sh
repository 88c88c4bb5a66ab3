#!/bin/sh
# Run by PID 1 of the guest, before memory is short: setup.sh machine|on|off.
# What to do comes in the environment, from the kernel's command line.
MOUNT=/run/zramfs/zram0

sysctls() {
	for pair in $SYSCTL; do # vm.page-cluster=0
		file=/proc/sys/$(echo "${pair%%=*}" | tr . /)
		echo "${pair#*=}" >"$file" || echo "setup: $pair cannot be set"
	done
}

# load MODULE…: in this order; what the kernel has built in has no file.
load() {
	for module; do
		[ ! -f "/modules/$module.ko" ] || insmod "/modules/$module.ko" || return
	done
}

# network: the host is 10.0.2.2. The modules that one of the others needs come first.
network() {
	load failover net_failover virtio_net nbd && ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
}

machine() {
	load fuse loop || return
	[ -z "$NBD_PORT" ] || network || return
	echo 120 >/proc/sys/kernel/hung_task_timeout_secs
	echo 1 >/proc/sys/vm/overcommit_memory
	case $MGLRU in
	0) echo n >/sys/kernel/mm/lru_gen/enabled ;;
	1) echo y >/sys/kernel/mm/lru_gen/enabled ;;
	esac
	sysctls
}

on() {
	case $SWAP in
	zramfs) zramfs swapon $SWAPON ;; # a list of words
	zram)
		load lz4_compress lz4hc_compress lz4 zsmalloc zram || return
		echo lz4 >/sys/block/zram0/comp_algorithm
		echo "${DISK}M" >/sys/block/zram0/disksize
		mkswap /dev/zram0 && swapon -d /dev/zram0
		;;
	disk) # that is no swap, and has a network disk under it
		mkdir -p "$MOUNT" && zramfs mount --size 64M --backing /dev/nbd0 "$MOUNT" && zramfs attach "$MOUNT"
		;;
	none) ;;
	*) echo "setup: SWAP=$SWAP" && return 1 ;;
	esac
}

off() {
	case $SWAP in
	zramfs) zramfs swapoff ;;
	zram) swapoff /dev/zram0 ;;
	disk) zramfs detach "$MOUNT" && zramfs set "$MOUNT" reset 1 && zramfs umount "$MOUNT" ;;
	esac
}

"$1"
