/* The events: what is done to the daemon, or beside it, while memory is short.
 * The process that runs them is locked: it must be able to undo what it did. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

int daemon_pid(const char *role)
{
	char text[4096], key[32];
	long pid;

	snprintf(key, sizeof(key), "%s_pid", role);
	if (read_file(ATTRIBUTES "zramfs/daemon_stat", text, sizeof(text)) < 0)
		return 0;
	pid = field(text, key);
	return pid > 1 ? pid : 0;
}

static void killed(const char *role, int signal)
{
	int pid = daemon_pid(role);

	report("event what=kill role=%s pid=%d signal=%d result=%d", role, pid, signal, pid ? kill(pid, signal) : -1);
}

void await_standby(void)
{
	uint64_t end = now_ms() + 20000;

	while (!daemon_pid("standby") && now_ms() < end)
		pause_ms(50);
}

/* Not before a standby is ready: for the time until then swap-safety.md promises
 * less. */
static void kill_worker(void)
{
	await_standby();
	killed("worker", SIGKILL);
}
static void fault_worker(void) { killed("worker", SIGSEGV); }
static void kill_keeper(void) { killed("keeper", SIGKILL); }

/* A stopped worker is continued from here, where no page is waited for. */
static void stop_worker(void)
{
	int pid = daemon_pid("worker");

	report("event what=stop pid=%d result=%d", pid, pid ? kill(pid, SIGSTOP) : -1);
	if (!pid)
		return;
	pause_ms(param("STOP_SECONDS", 20) * 1000);
	report("event what=continue pid=%d result=%d", pid, kill(pid, SIGCONT));
}

/* Killed together: who is not killed yet is stopped, so that it replaces none. */
static void kill_together(const char *what, int others)
{
	static const char *const roles[] = { "keeper", "worker", "standby" };
	int pids[3], i;

	for (i = 0; i < others; i++) {
		pids[i] = daemon_pid(roles[i]);
		if (!pids[i])
			return;
	}
	for (i = 0; i < others; i++)
		kill(pids[i], SIGSTOP);
	for (i = 0; i < others; i++)
		kill(pids[i], SIGKILL);
	report("event what=%s keeper=%d worker=%d result=0", what, pids[0], pids[1]);
}

static void kill_both(void) { kill_together("kill-both", 2); }
static void kill_all(void) { kill_together("kill-all", 3); }

static void upgrade(void)
{
	char *argv[] = { "/bin/zramfs", "upgrade", MOUNT, NULL };
	uint64_t from = now_ms();
	int code = command(argv);

	report("event what=upgrade result=%d ms=%lu", code, now_ms() - from);
}

/* storm forks as fast as it can, each child with memory of its own. */
static void storm(void)
{
	uint64_t end = now_ms() + param("STORM_SECONDS", 10) * 1000, forks = 0, failed = 0;
	int alive = 0;

	report("event what=storm result=0");
	while (now_ms() < end) {
		pid_t pid = fork();

		if (pid == 0) {
			char *mem = mmap(NULL, 256 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			int i;

			name_process("storm", 900);
			for (i = 0; mem != MAP_FAILED && i < 256 << 10; i += PAGE)
				mem[i] = i;
			pause_ms(200);
			_exit(0);
		}
		if (pid > 0) {
			forks++;
			alive++;
		} else {
			failed++;
			pause_ms(10);
		}
		while (alive > 0 && waitpid(-1, NULL, alive >= 32 ? 0 : WNOHANG) > 0)
			alive--;
	}
	while (waitpid(-1, NULL, 0) > 0)
		;
	report("event what=storm-end result=0 forks=%lu failed=%lu", forks, failed);
}

/* curious reads every statistics file, and runs zramfs status, without end. */
static void curious(void)
{
	static const char *const files[] = { "mm_stat", "io_stat", "debug_stat", "zramfs/daemon_stat", "zramfs/memory_stat",
		"zramfs/stable_stat", "zramfs/stream_stat", "zramfs/integrity_stat" };
	char *argv[] = { "/bin/zramfs", "status", "--json", NULL };
	char path[256], text[4096];
	int runner;

	report("event what=curious result=0");
	runner = fork();
	if (runner == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* lives no longer than act */
		name_process("status", 0);
		for (;;) {
			if (command_quiet(argv))
				shared->failed++;
			shared->commands++;
			pause_ms(50);
		}
	}
	for (;;) {
		unsigned i;

		for (i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
			snprintf(path, sizeof(path), ATTRIBUTES "%s", files[i]);
			if (read_file(path, text, sizeof(text)) < 0)
				shared->failed++;
			shared->reads++;
		}
		pause_ms(50);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} events[] = {
	{ "stop", stop_worker },     { "kill-worker", kill_worker }, { "fault-worker", fault_worker },
	{ "kill-keeper", kill_keeper }, { "kill-both", kill_both },     { "kill-all", kill_all },
	{ "upgrade", upgrade },      { "storm", storm },             { "curious", curious },
};

static void one_event(const char *name)
{
	unsigned i;

	for (i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		if (!strcmp(name, events[i].name))
			return events[i].run();
	}
	report("fatal what=event name=%s", name);
}

/* act waits until EVENT_AT MiB are in swap, then does each of EVENTS in turn,
 * all of them EVENT_COUNT times. */
void act(void)
{
	long count = param("EVENT_COUNT", 1), at = param("EVENT_AT", 16);
	char list[256], *name;

	while (swap_used() < at)
		pause_ms(50);
	while (count-- > 0) {
		snprintf(list, sizeof(list), "%s", text_param("EVENTS", ""));
		for (name = strtok(list, "+"); name; name = strtok(NULL, "+")) {
			one_event(name);
			shared->acted++;
			pause_ms(param("EVENT_GAP", 2000));
		}
	}
}
