/* The load of a disk that is no swap, and has a network disk under it: the
 * first half of its pages is written back, the second stays in RAM. What happens
 * to the server then, SERVER says. Pages of the second half are looked at here,
 * all the time; those of the first by readers of their own, since they may wait.
 * It runs as eater 0, so a page in RAM that does not come is one of an eater
 * that stands still. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

#define DISK "/dev/loop0"
#define READERS 16 /* the mount has 33 buffers: docs/adr/0012 */

/* What came of reading pages, and of writing them. */
struct tally {
	_Atomic uint64_t whole, errors, wrong, worst;
};

static struct {
	struct eater *me;
	int fd;
	uint64_t *page;      /* one, for direct I/O */
	uint64_t away, size; /* pages: on the server; all */
	uint64_t lost;       /* of the first, these are for good */
	uint8_t *generation; /* of each */
	struct tally *there; /* of the readers; shared with them */
	pid_t readers[READERS];
} d;

static void took(struct tally *t, uint64_t from)
{
	uint64_t ms = now_ms() - from;

	if (ms > t->worst)
		t->worst = ms;
}

static void look(uint64_t i, struct tally *t)
{
	uint64_t from = now_ms();
	ssize_t n = pread(d.fd, d.page, PAGE, i * PAGE);
	int error = n < 0 ? errno : 0;

	took(t, from);
	if (n == PAGE && is_page(d.page, i, d.generation[i]))
		t->whole++;
	else if (error == EIO)
		t->errors++;
	else if (t->wrong++ < 10)
		report("wrong page=%lu got=%zd errno=%d name=%lx generation=%lu want=%d", i, n, error, d.page[0], d.page[1], d.generation[i]);
}

static void stamp(uint64_t i, struct tally *t)
{
	uint64_t from = now_ms();

	make_page(d.page, i, ++d.generation[i]);
	if (pwrite(d.fd, d.page, PAGE, i * PAGE) != PAGE)
		t->errors++;
	took(t, from);
}

/* tick says how far it is: the host is patient with those who get on. */
static void tick(const struct tally *t)
{
	uint64_t now = now_ms();

	if (t->worst > d.me->worst_ms)
		d.me->worst_ms = t->worst;
	d.me->last_ms = now;
}

static void tell(const char *when, const char *what, uint64_t pages, const struct tally *t, uint64_t from)
{
	d.me->touches += t->whole;
	d.me->wrong += t->wrong;
	report("read when=%s what=%s pages=%lu whole=%lu errors=%lu wrong=%lu worst=%lu ms=%lu", when, what, pages, t->whole,
		t->errors, t->wrong, t->worst, now_ms() - from);
}

static void look_at(const char *when, const char *what, uint64_t first, uint64_t end)
{
	uint64_t from = now_ms(), i;
	struct tally t = { 0 };

	for (i = first; i < end; i++) {
		look(i, &t);
		tick(&t);
	}
	tell(when, what, end - first, &t, from);
}

static long backing(const char *key)
{
	char text[1024];

	return read_file(ATTRIBUTES "zramfs/backing_stat", text, sizeof(text)) < 0 ? -1 : field(text, key);
}

static int write_back(void)
{
	uint64_t i;
	struct tally t = { 0 };

	if (write_file(ATTRIBUTES "idle", "all") < 0)
		return -1;
	for (i = d.away; i < d.size; i++) { /* these are idle no more */
		look(i, &t);
		tick(&t);
	}
	return write_file(ATTRIBUTES "writeback", "idle");
}

/* blocks_read is the second figure of bd_stat. */
static long blocks_read(void)
{
	char text[256];
	long n = -1;

	if (read_file(ATTRIBUTES "bd_stat", text, sizeof(text)) > 0)
		sscanf(text, "%*d %ld", &n);
	return n;
}

/* read_back holds the pages against what the disk says that it has read for them:
 * a block or more for each. */
static void read_back(void)
{
	long before, after;

	before = blocks_read();
	look_at("written", "away", 0, d.away);
	after = blocks_read();
	report("event what=read-back result=%d blocks=%ld", before < 0 || after - before < (long)d.away, after - before);
}

static void start_readers(void)
{
	uint64_t i;
	int k;

	memset(d.there, 0, sizeof(*d.there));
	for (k = 0; k < READERS; k++) {
		d.readers[k] = fork();
		if (d.readers[k])
			continue;
		name_process("reader", 1000);
		for (i = k; i < d.away; i += READERS)
			look(i, d.there);
		_exit(0);
	}
}

/* reading counts the readers that have pages left. */
static int reading(void)
{
	int k, n = 0;

	for (k = 0; k < READERS; k++) {
		if (d.readers[k] && waitpid(d.readers[k], NULL, WNOHANG) == d.readers[k])
			d.readers[k] = 0;
		n += d.readers[k] != 0;
	}
	return n;
}

/* one_pass looks at every page in RAM, and writes one of four anew. */
static void one_pass(struct tally *t)
{
	uint64_t i;

	for (i = d.away; i < d.size; i++) {
		look(i, t);
		if (i % 4 == 0)
			stamp(i, t);
		tick(t);
	}
}

static void serve(const char *what)
{
	report("event what=server-%s result=%d", what, ask_host(what));
}

/* A server that stalls, and goes on. No reader has got anything until then. */
static void stall(void)
{
	uint64_t from, patience;
	struct tally t = { 0 };

	serve("stop");
	from = now_ms();
	patience = from + 10000;
	start_readers();
	while (backing("waiting") < READERS && now_ms() < patience)
		pause_ms(20);
	report("event what=all-wait result=%d waiting=%ld", backing("waiting") != READERS, backing("waiting"));
	if (param("KILL", 0)) {
		int pid = daemon_pid("worker");

		report("event what=kill-worker pid=%d result=%d", pid, pid ? kill(pid, SIGKILL) : -1);
	}
	from = now_ms();
	while (now_ms() < from + param("STALL", 15) * 1000)
		one_pass(&t);
	tell("stalled", "ram", d.size - d.away, &t, from);
	tell("stalled", "away", d.away, d.there, from);
	serve("continue");
	from = now_ms();
	while (reading())
		one_pass(&t);
	tell("after", "ram", d.size - d.away, &t, from);
	tell("after", "away", d.away, d.there, from);
}

/* A server that answers no more. What was there is lost until it is written
 * again, which is done to half of it: reset finds the other half there. */
static void lose(const char *how)
{
	uint64_t from, i;
	struct tally t = { 0 };
	int code;

	serve(how);
	from = now_ms();
	start_readers();
	do
		one_pass(&t);
	while (reading());
	tell("gone", "ram", d.size - d.away, &t, from);
	tell("gone", "away", d.away, d.there, from);
	code = write_file(ATTRIBUTES "idle", "all") < 0 ? 1 : write_file(ATTRIBUTES "writeback", "idle") == 0 ? 2 : 0;
	report("event what=nothing-written-back result=%d", code);
	memset(&t, 0, sizeof(t));
	d.lost = d.away / 2;
	for (i = d.lost; i < d.away; i++)
		stamp(i, &t);
	report("event what=written-again result=%d", t.errors > 0);
}

/* A server that is silent when the disk is given up. A pass that writes back
 * waits for it, and ends with who asked for it. */
static void leave(void)
{
	struct tally t = { 0 };
	uint64_t from;
	int status;
	pid_t pass;

	serve("stop");
	d.lost = d.away;
	pass = fork();
	if (pass == 0)
		_exit(write_file(ATTRIBUTES "idle", "all") < 0 ? 1 : write_file(ATTRIBUTES "writeback", "idle") < 0 ? 2 : 3);
	from = now_ms();
	while (now_ms() < from + 3000)
		one_pass(&t);
	tell("passing", "ram", d.size - d.away, &t, from);
	from = now_ms();
	kill(pass, SIGTERM);
	waitpid(pass, &status, 0);
	report("event what=pass-left result=%d status=%x ms=%lu", !WIFSIGNALED(status), status, now_ms() - from);
}

static void fill(void)
{
	struct tally t = { 0 };
	uint64_t from = now_ms(), i;

	for (i = 0; i < d.size; i++) {
		stamp(i, &t);
		tick(&t);
		d.me->pages = i + 1;
	}
	report("event what=filled result=%d ms=%lu", t.errors > 0, now_ms() - from);
	from = now_ms();
	/* A page that is read twice would come back to RAM, where no server matters. */
	i = write_file(ATTRIBUTES "zramfs/writeback_promote", "0") < 0 || write_back() < 0;
	report("event what=written-back result=%d blocks=%ld ms=%lu", i || backing("used") <= 0, backing("used"), now_ms() - from);
}

void disk(void)
{
	char list[64], *name;
	uint64_t before;

	d.me = &shared->eater[0];
	d.size = param("PAGES", 512);
	d.away = d.size / 2;
	d.fd = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	d.page = aligned_alloc(PAGE, PAGE);
	d.generation = calloc(d.size, 1);
	d.there = mmap(NULL, sizeof(*d.there), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (d.fd < 0 || !d.page || !d.generation || d.there == MAP_FAILED)
		_exit(20);
	d.me->last_ms = now_ms();
	d.me->phase = FILLING;
	fill();
	d.me->phase = TOUCHING;
	read_back();
	look_at("written", "ram", d.away, d.size);
	snprintf(list, sizeof(list), "%s", text_param("SERVER", ""));
	for (name = strtok(list, "+"); name; name = strtok(NULL, "+")) {
		if (!strcmp(name, "stall"))
			stall();
		else if (!strcmp(name, "leave"))
			leave();
		else
			lose(name);
	}
	d.me->phase = VERIFYING;
	before = d.me->touches;
	look_at("end", "all", d.lost, d.size);
	d.me->verified = d.me->touches - before;
	d.me->pages = d.size - d.lost;
	d.me->phase = DONE;
	_exit(d.me->wrong ? 21 : 0);
}
