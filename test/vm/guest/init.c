/* PID 1 of the guest: it mounts what a program expects, runs /setup.sh, which
 * turns swap on, lets eaters loose, and tells how they ended. It is static,
 * locked in memory, and needs no page of anything that can be swapped out. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

#include "guest.h"

struct shared *shared;

static pid_t eaters[MAX_EATERS];

/* Those who watch and act. What the OOM killer takes of them comes again. */
static struct watcher {
	const char *name;
	int locked;
	void (*run)(void);
	pid_t pid;
} watchers[] = {
	{ "beat", 1, beat, 0 }, { "act", 1, act, 0 },
	{ "pulse", 0, pulse, 0 }, { "bystander", 0, bystander, 0 },
};

#define WATCHERS (int)(sizeof(watchers) / sizeof(watchers[0]))

static void file_systems(void)
{
	static const struct {
		const char *type, *at, *options;
	} table[] = {
		{ "proc", "/proc", NULL }, { "sysfs", "/sys", NULL }, { "devtmpfs", "/dev", NULL },
		{ "tmpfs", "/run", "mode=0755" }, { "tmpfs", "/tmp", NULL },
	};
	unsigned i;

	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		mkdir(table[i].at, 0755);
		if (mount(table[i].type, table[i].at, table[i].type, 0, table[i].options) < 0 && errno != EBUSY)
			report("fatal what=mount at=%s errno=%d", table[i].at, errno);
	}
	switch (param("CGROUP", 2)) {
	case 2:
		if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL) < 0 ||
		    write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory") < 0)
			report("fatal what=cgroup2 errno=%d", errno);
		break;
	}
}

/* setup runs the shell script that makes swap; it is done before memory is short. */
static int setup(const char *what)
{
	char *argv[] = { "/bin/sh", "/setup.sh", (char *)what, NULL };
	uint64_t from = now_ms();
	int code = command(argv);

	report("setup what=%s code=%d ms=%lu up=%lu", what, code, now_ms() - from, now_ms());
	return code;
}

static long available(void)
{
	char text[4096];

	read_file("/proc/meminfo", text, sizeof(text));
	return field(text, "MemAvailable");
}

static int eater_of(pid_t pid)
{
	int i;

	for (i = 0; i < MAX_EATERS; i++) {
		if (eaters[i] && eaters[i] == pid)
			return i;
	}
	return -1;
}

/* ended tells about a dead child. */
static void ended(pid_t pid, int status, int *left)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1, signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0, i;

	i = eater_of(pid);
	if (i >= 0) {
		struct eater *e = &shared->eater[i];

		eaters[i] = 0;
		--*left;
		report("eater index=%d phase=%d code=%d signal=%d pages=%lu touches=%lu verified=%lu wrong=%lu worst=%lu", i,
			e->phase, code, signal, e->pages, e->touches, e->verified, e->wrong, e->worst_ms);
		e->phase = DONE; /* whoever is dead does not stand still */
		return;
	}
	for (i = 0; i < WATCHERS; i++) {
		struct watcher *w = &watchers[i];

		if (w->pid != pid)
			continue;
		w->pid = 0;
		if (code == 0)
			continue;
		report("lost name=%s code=%d signal=%d", w->name, code, signal);
		w->pid = helper(w->name, w->locked, w->run);
	}
}

static int reap(int *left)
{
	int status;
	pid_t pid = waitpid(-1, &status, WNOHANG);

	if (pid > 0)
		ended(pid, status, left);
	return pid > 0;
}

static int all_in(int count, enum phase phase)
{
	int i;

	for (i = 0; i < count; i++) {
		if (eaters[i] && shared->eater[i].phase != (int)phase)
			return 0;
	}
	return 1;
}

/* on_disk: the load is of a disk that is no swap. */
static int on_disk(void) { return !strcmp(text_param("SWAP", ""), "disk"); }

static void start_eaters(int count)
{
	int i;

	memset(shared->eater, 0, sizeof(shared->eater));
	shared->hold = param("SHRINK", 0) > 0;
	for (i = 0; i < count; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			name_process("eater", param("SCORE", 1000));
			if (on_disk())
				disk();
			eat(i);
		}
		eaters[i] = pid;
	}
}

/* feed lets the eaters run to their end. Where they shrink, swap is turned off
 * and on again while they hold what fits into memory. */
static void feed(void)
{
	int count = param("EATERS", 1), left = count;

	start_eaters(count);
	while (left > 0) {
		while (reap(&left))
			;
		if (shared->hold && all_in(count, SHRUNK)) {
			report("event what=swapoff-under-load result=%d", setup("off"));
			report("event what=swapon-again result=%d", setup("on"));
			shared->acted++;
			shared->hold = 0;
		}
		pause_ms(20);
	}
}

/* start_watchers starts the first n: the first one beats, also while swap is
 * made, and the others want what memory there is. */
static void start_watchers(int n)
{
	int i;

	for (i = 0; i < n; i++) {
		if (!watchers[i].pid)
			watchers[i].pid = helper(watchers[i].name, watchers[i].locked, watchers[i].run);
	}
}

static void stop_watcher(const char *name)
{
	int i;

	for (i = 0; i < WATCHERS; i++) {
		if (!watchers[i].pid || strcmp(watchers[i].name, name))
			continue;
		kill(watchers[i].pid, SIGKILL);
		waitpid(watchers[i].pid, NULL, 0);
		watchers[i].pid = 0;
	}
}

/* cycle is swap's life: on, full of pages, off. */
static int cycle(int n)
{
	int code;

	if (setup("on"))
		return -1;
	if (on_disk())
		await_standby(); /* mount, unlike swapon, does not, and it would be seen growing */
	facts("armed");
	shared->pulse_ms = now_ms();
	start_watchers(WATCHERS);
	feed();
	stop_watcher("act");
	facts("end");
	code = setup("off");
	facts("off");
	report("cycle n=%d off=%d", n, code);
	return code;
}

int main(void)
{
	int n;

	if (getpid() != 1)
		return 1;
	lock_memory();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	file_systems();
	report_open();
	name_process("init", -1000);
	report("boot up=%lu", now_ms());
	load_pages("/pages.bin");
	setenv("PATH", "/bin", 1);

	if (setup("machine") == 0 && attach_nbd() == 0) {
		start_watchers(1);
		facts("bare");
		shared->available = available();
		for (n = 0; n < param("CYCLES", 1) && cycle(n) == 0; n++)
			;
	}
	report("end up=%lu", now_ms());
	pause_ms(200);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
