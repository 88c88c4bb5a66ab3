/* What the processes of the guest share. One static program holds them all;
 * PID 1 forks the others and outlives them. Everything that judges or acts is
 * locked in memory: whatever waits for a page in swap cannot tell that swap
 * hangs, nor continue a stopped daemon. Only eaters, pulses and zramfs's own
 * commands may be swapped out. */
#ifndef GUEST_H
#define GUEST_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGE 4096
#define MAX_EATERS 16
#define MOUNT "/run/zramfs/zram0"
#define ATTRIBUTES MOUNT "/sys/block/zram0/"

enum phase { STARTING, FILLING, TOUCHING, SHRUNK, VERIFYING, DONE };

/* An eater's progress: written by the eater, read by beat. */
struct eater {
	_Atomic int phase;
	_Atomic uint64_t pages;    /* held now */
	_Atomic uint64_t touches;  /* pages looked at and found whole */
	_Atomic uint64_t verified; /* of them, in the last pass over all */
	_Atomic uint64_t wrong;
	_Atomic uint64_t last_ms;  /* when the last page was done with */
	_Atomic uint64_t worst_ms; /* longest time for one page */
};

/* Memory that all processes map; PID 1 locks it. */
struct shared {
	struct eater eater[MAX_EATERS];
	_Atomic uint64_t pulse_ms;    /* when the last pulse came back */
	_Atomic uint64_t pulse_worst; /* longest time between two */
	_Atomic uint64_t reads;       /* statistics files read */
	_Atomic uint64_t commands;    /* zramfs status run */
	_Atomic uint64_t failed;      /* of both */
	uint64_t available;           /* KiB, before there was swap */
	_Atomic int acted;            /* events that happened */
	_Atomic int hold;             /* eaters go on when it is 0 */
};

extern struct shared *shared;

/* util.c */
uint64_t now_ms(void);
void pause_ms(uint64_t ms);
long param(const char *name, long otherwise);
const char *text_param(const char *name, const char *otherwise);
int read_file(const char *path, char *into, int size); /* length, or -1; ends in 0 */
int write_file(const char *path, const char *text);
long field(const char *text, const char *key); /* number after "key" and blanks, or -1 */
void report_open(void);
int ask_host(const char *what); /* to do that with the server; 0 when it is done */
void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
void lock_memory(void);
void name_process(const char *name, int oom_score);
pid_t helper(const char *name, int locked, void (*run)(void)); /* in a process of its own */
int command(char *const argv[]); /* run to its end; exit code, or 128 and the signal */
int command_quiet(char *const argv[]);

/* eater.c */
void load_pages(const char *path);
void make_page(uint64_t *word, uint64_t name, uint8_t generation); /* of the corpus, stamped */
int is_page(const uint64_t *word, uint64_t name, uint8_t generation);
void eat(int index) __attribute__((noreturn));

/* watch.c */
void beat(void);
void pulse(void);
void bystander(void);
void facts(const char *when); /* memory, processes of zramfs, its statistics */
long swap_used(void);         /* MiB */

/* disk.c */
void disk(void) __attribute__((noreturn));

/* nbd.c */
int attach_nbd(void); /* 0 when the network disk can be used, or there is to be none */

/* act.c */
void act(void);
int daemon_pid(const char *role); /* "keeper", "worker" or "standby"; 0 if unknown */
void await_standby(void);         /* for a while */

#endif
