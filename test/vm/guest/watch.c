/* What the host judges: a beat every second, a pulse that needs memory from
 * the kernel, and what the processes of zramfs look like from outside. */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

/* PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE: what PR_SET_IO_FLUSHER sets. */
#define IO_FLUSHER 0x180000

long swap_used(void)
{
	char text[4096];

	if (read_file("/proc/meminfo", text, sizeof(text)) < 0)
		return 0;
	return (field(text, "SwapTotal") - field(text, "SwapFree")) >> 10;
}

/* beat tells once a second how far everybody is. It opens its file only once:
 * a machine that can open nothing can still say so. */
void beat(void)
{
	char text[4096], eaters[1024];
	int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC), i, n;

	for (;;) {
		uint64_t now;

		n = pread(fd, text, sizeof(text) - 1, 0);
		text[n < 0 ? 0 : n] = 0;
		now = now_ms();
		eaters[0] = 0;
		for (i = n = 0; i < param("EATERS", 1); i++) {
			struct eater *e = &shared->eater[i];

			n += snprintf(eaters + n, sizeof(eaters) - n, " e%d=%d,%lu,%lu,%lu,%lu,%lu,%lu", i, e->phase,
				e->pages, e->touches, e->verified, e->wrong,
				e->phase == STARTING || e->phase == DONE ? 0 : now - e->last_ms, e->worst_ms);
		}
		report("beat up=%lu free=%ld swaptotal=%ld swapfree=%ld swapcached=%ld pulse=%lu pulse_worst=%lu acted=%d reads=%lu "
			"commands=%lu failed=%lu%s", now, field(text, "MemFree"), field(text, "SwapTotal"),
			field(text, "SwapFree"), field(text, "SwapCached"), shared->pulse_ms ? now - shared->pulse_ms : 0, shared->pulse_worst,
			shared->acted, shared->reads, shared->commands, shared->failed, eaters);
		pause_ms(1000);
	}
}

/* pulse does what any program does: it forks, touches memory, ends. */
void pulse(void)
{
	for (;;) {
		uint64_t gap;
		pid_t pid = fork();

		if (pid == 0) {
			char *mem = mmap(NULL, 512 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			int i;

			for (i = 0; mem != MAP_FAILED && i < 512 << 10; i += PAGE)
				mem[i] = 1;
			_exit(0);
		}
		if (pid > 0)
			waitpid(pid, NULL, 0);
		gap = now_ms() - shared->pulse_ms;
		if (gap > shared->pulse_worst)
			shared->pulse_worst = gap;
		shared->pulse_ms = now_ms();
		pause_ms(1000);
	}
}

/* bystander is a program that does nothing wrong: who looks at its memory now
 * and then. The OOM killer may take it only after the eaters. */
void bystander(void)
{
	size_t size = 4 << 20, i;
	char *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (;;) {
		for (i = 0; mem != MAP_FAILED && i < size; i += PAGE)
			memset(mem + i, i / PAGE, PAGE / 2);
		pause_ms(500);
	}
}

/* thread_flags counts the threads of a process and those with IO_FLUSHER. */
static void thread_flags(int pid, int *threads, int *flagged)
{
	char path[320], text[1024];
	struct dirent *entry;
	DIR *dir;

	*threads = *flagged = 0;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		unsigned long flags;
		char *end;

		if (!isdigit(entry->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/stat", pid, entry->d_name);
		if (read_file(path, text, sizeof(text)) < 0 || !(end = strrchr(text, ')')))
			continue;
		if (sscanf(end + 2, "%*c %*d %*d %*d %*d %*d %lu", &flags) != 1)
			continue;
		++*threads;
		*flagged += (flags & IO_FLUSHER) == IO_FLUSHER;
	}
	if (dir)
		closedir(dir);
}

static void one_process(const char *when, int pid, const char *role)
{
	char path[64], status[4096], stat[1024], rollup[2048], score[16];
	unsigned long minor = 0, major = 0;
	int threads, flagged;
	char *end;

	thread_flags(pid, &threads, &flagged);
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	read_file(path, status, sizeof(status));
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	read_file(path, stat, sizeof(stat));
	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
	read_file(path, rollup, sizeof(rollup));
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", pid);
	read_file(path, score, sizeof(score));
	if ((end = strrchr(stat, ')')))
		sscanf(end + 2, "%*c %*d %*d %*d %*d %*d %*u %lu %*u %lu", &minor, &major);
	report("process when=%s role=%s pid=%d threads=%d flagged=%d oom=%ld minflt=%lu majflt=%lu swap=%ld rss=%ld shmem=%ld "
		"pss=%ld anon=%ld locked=%ld", when, role, pid, threads, flagged, atol(score), minor, major,
		field(status, "VmSwap"), field(status, "VmRSS"), field(status, "RssShmem"), field(rollup, "Pss"),
		field(rollup, "Pss_Anon"), field(rollup, "Locked"));
}

/* processes tells about each process of zramfs: its second word is its role. */
static void processes(const char *when)
{
	struct dirent *entry;
	DIR *dir = opendir("/proc");

	while (dir && (entry = readdir(dir))) {
		char path[300], line[256], *role;
		int n;

		if (!isdigit(entry->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/cmdline", entry->d_name);
		n = read_file(path, line, sizeof(line));
		role = line + strlen(line) + 1;
		if (n > 0 && !strcmp(line, "zramfs") && role < line + n)
			one_process(when, atoi(entry->d_name), role);
	}
	if (dir)
		closedir(dir);
}

/* flat reports a file of "key value" lines, or of columns, as one line. */
static void flat(const char *when, const char *name, const char *path)
{
	char text[1600], *at;

	if (read_file(path, text, sizeof(text)) <= 0)
		return;
	for (at = text; *at; at++) {
		if (*at == '\n')
			*at = ';';
	}
	report("file when=%s name=%s text=%s", when, name, text);
}

void facts(const char *when)
{
	char text[4096], oom[64];

	read_file("/proc/meminfo", text, sizeof(text));
	report("memory when=%s total=%ld free=%ld available=%ld anon=%ld shmem=%ld cached=%ld slab=%ld unreclaimable=%ld "
		"stacks=%ld tables=%ld percpu=%ld unevictable=%ld swaptotal=%ld swapfree=%ld", when, field(text, "MemTotal"),
		field(text, "MemFree"), field(text, "MemAvailable"), field(text, "AnonPages"), field(text, "Shmem"),
		field(text, "Cached"), field(text, "Slab"), field(text, "SUnreclaim"), field(text, "KernelStack"),
		field(text, "PageTables"), field(text, "Percpu"), field(text, "Unevictable"), field(text, "SwapTotal"),
		field(text, "SwapFree"));
	processes(when);
	flat(when, "daemon_stat", ATTRIBUTES "zramfs/daemon_stat");
	flat(when, "memory_stat", ATTRIBUTES "zramfs/memory_stat");
	flat(when, "crash_stat", ATTRIBUTES "zramfs/crash_stat");
	flat(when, "limit_stat", ATTRIBUTES "zramfs/limit_stat");
	flat(when, "mm_stat", ATTRIBUTES "mm_stat");
	flat(when, "io_stat", ATTRIBUTES "io_stat");
	flat(when, "zram_mm_stat", "/sys/block/zram0/mm_stat");
	flat(when, "min_free_kbytes", "/proc/sys/vm/min_free_kbytes");
	flat(when, "watermark_boost_factor", "/proc/sys/vm/watermark_boost_factor");
	flat(when, "watermark_scale_factor", "/proc/sys/vm/watermark_scale_factor");
	flat(when, "page-cluster", "/proc/sys/vm/page-cluster");
	flat(when, "swappiness", "/proc/sys/vm/swappiness");
	flat(when, "lru_gen", "/sys/kernel/mm/lru_gen/enabled");
	if (read_file("/proc/vmstat", text, sizeof(text)) > 0) {
		snprintf(oom, sizeof(oom), "%ld", field(text, "oom_kill"));
		report("file when=%s name=oom_kill text=%s", when, oom);
	}
}
