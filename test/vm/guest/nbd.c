/* A client of the network block device that the host serves: the handshake, then
 * the kernel has the socket. /dev/nbd0 is there as long as the server is. */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

#define DEVICE "/dev/nbd0"
#define HOST "10.0.2.2" /* in QEMU's network for a user */
#define IHAVEOPT 0x49484156454F5054ull
#define EXPORT_NAME 1
#define FIXED_NEWSTYLE 1
#define NO_ZEROES 2

/* What either side says; big-endian. */
struct greeting {
	char magic[8];
	uint64_t option;
	uint16_t flags;
} __attribute__((packed));

struct choice {
	uint32_t flags;
	uint64_t magic;
	uint32_t option, length;
} __attribute__((packed));

struct export {
	uint64_t size;
	uint16_t flags;
} __attribute__((packed));

static int get(int fd, void *into, size_t size)
{
	return recv(fd, into, size, MSG_WAITALL) == (ssize_t)size ? 0 : -1;
}

/* shake_hands takes the export without a name. */
static int shake_hands(int fd, struct export *e)
{
	struct choice c = { htobe32(FIXED_NEWSTYLE | NO_ZEROES), htobe64(IHAVEOPT), htobe32(EXPORT_NAME), 0 };
	struct greeting g;

	if (get(fd, &g, sizeof(g)) < 0 || memcmp(g.magic, "NBDMAGIC", 8) || be64toh(g.option) != IHAVEOPT)
		return -1;
	if (send(fd, &c, sizeof(c), 0) != sizeof(c) || get(fd, e, sizeof(*e)) < 0)
		return -1;
	e->size = be64toh(e->size);
	e->flags = be16toh(e->flags);
	return 0;
}

static int dial(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(param("NBD_PORT", 0)) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	inet_pton(AF_INET, HOST, &to.sin_addr);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

/* serve lends its process to the kernel until the connection ends. After
 * NBD_TIMEOUT seconds without an answer the kernel ends it: else a server that
 * is silent for ever would be waited for as long. */
static void serve(void)
{
	int fd = dial(), device = open(DEVICE, O_RDWR | O_CLOEXEC);
	struct export e;

	if (fd < 0 || device < 0 || shake_hands(fd, &e) < 0) {
		report("fatal what=nbd socket=%d device=%d errno=%d", fd, device, errno);
		return;
	}
	if (ioctl(device, NBD_SET_BLKSIZE, PAGE) < 0 || ioctl(device, NBD_SET_SIZE_BLOCKS, e.size / PAGE) < 0 ||
	    ioctl(device, NBD_SET_FLAGS, e.flags) < 0 || ioctl(device, NBD_SET_TIMEOUT, param("NBD_TIMEOUT", 60)) < 0 ||
	    ioctl(device, NBD_SET_SOCK, fd) < 0) {
		report("fatal what=nbd-device errno=%d", errno);
		return;
	}
	ioctl(device, NBD_DO_IT); /* an error would say that the server has gone, which is known */
	report("nbd what=ended up=%lu", now_ms());
}

int attach_nbd(void)
{
	uint64_t end = now_ms() + 20000;
	char size[32];
	pid_t pid;

	if (!param("NBD_PORT", 0))
		return 0;
	pid = helper("nbd", 1, serve);
	while (now_ms() < end && waitpid(pid, NULL, WNOHANG) == 0) {
		/* The size is there before the connection is. */
		if (read_file("/sys/block/nbd0/pid", size, sizeof(size)) > 0 && read_file("/sys/block/nbd0/size", size, sizeof(size)) > 0 &&
		    size[0] != '0') {
			report("nbd what=there sectors=%ld up=%lu", strtol(size, NULL, 10), now_ms());
			return 0;
		}
		pause_ms(20);
	}
	report("fatal what=no-nbd");
	return -1;
}
