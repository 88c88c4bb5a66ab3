/* Small things: time, parameters, files, processes, the line to the host. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

static int report_fd = 1;

uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

void pause_ms(uint64_t ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	while (nanosleep(&t, &t) < 0)
		;
}

/* Words of the kernel's command line that it does not know are the environment of init. */
const char *text_param(const char *name, const char *otherwise)
{
	const char *value = getenv(name);

	return value && *value ? value : otherwise;
}

long param(const char *name, long otherwise)
{
	const char *value = text_param(name, NULL);

	return value ? atol(value) : otherwise;
}

int read_file(const char *path, char *into, int size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), got = 0, n;

	into[0] = 0;
	if (fd < 0)
		return -1;
	while (got < size - 1 && (n = read(fd, into + got, size - 1 - got)) > 0)
		got += n;
	into[got] = 0;
	close(fd);
	return got;
}

int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), n;

	if (fd < 0)
		return -1;
	n = write(fd, text, strlen(text));
	close(fd);
	return n < 0 ? -1 : 0;
}

long field(const char *text, const char *key)
{
	const char *at = text;
	size_t len = strlen(key);

	while ((at = strstr(at, key))) {
		if (at == text || at[-1] == '\n')
			return strtol(at + len + strspn(at + len, ": \t"), NULL, 10);
		at += len;
	}
	return -1;
}

/* The second serial line is for reports only: on the first one the kernel's
 * words and ours come out letter by letter in turn. */
void report_open(void)
{
	struct termios raw;
	int fd = open("/dev/ttyS1", O_WRONLY | O_NOCTTY);

	if (fd < 0)
		return;
	if (tcgetattr(fd, &raw) == 0) {
		cfmakeraw(&raw);
		cfsetspeed(&raw, B115200);
		tcsetattr(fd, TCSANOW, &raw);
	}
	report_fd = fcntl(fd, F_DUPFD_CLOEXEC, 100);
	close(fd);
}

void report(const char *format, ...)
{
	char line[2048];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	if (write(report_fd, line, n) < 0)
		_exit(99);
}

/* The host answers on the line that it is asked on: one character. */
int ask_host(const char *what)
{
	int fd = open("/dev/ttyS1", O_RDONLY | O_NOCTTY | O_CLOEXEC);
	char answer = 0;

	if (fd < 0)
		return -1;
	tcflush(fd, TCIFLUSH);
	report("server %s", what);
	while (read(fd, &answer, 1) < 0 && errno == EINTR)
		;
	close(fd);
	return answer == '0' ? 0 : -1;
}

/* Locks are not inherited, so every process that must not wait locks again. */
void lock_memory(void)
{
	if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		report("fatal what=mlockall");
}

void name_process(const char *name, int oom_score)
{
	char score[16];

	prctl(PR_SET_NAME, name);
	snprintf(score, sizeof(score), "%d", oom_score);
	if (write_file("/proc/self/oom_score_adj", score) < 0)
		report("fatal what=oom_score_adj name=%s", name);
}

/* Who is locked judges or acts, and is not for the OOM killer. */
pid_t helper(const char *name, int locked, void (*run)(void))
{
	pid_t pid = fork();

	if (pid)
		return pid;
	if (locked)
		lock_memory();
	name_process(name, locked ? -1000 : 0);
	run();
	_exit(0);
}

static int run(char *const argv[], int quiet)
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		return 255;
	if (pid == 0) {
		write_file("/proc/self/oom_score_adj", "0");
		if (quiet) {
			int null = open("/dev/null", O_WRONLY);

			dup2(null, 1);
		}
		execv(argv[0], argv);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int command(char *const argv[])
{
	return run(argv, 0);
}

int command_quiet(char *const argv[])
{
	return run(argv, 1);
}
