/* An eater fills memory with stamped pages and looks at them again. What a
 * page should hold is kept apart, locked, so that a page which comes back whole
 * but old is found as well as a torn one. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "guest.h"

/* The corpus, in memory that PID 1 locks and every eater maps. */
static uint8_t *base;
static uint64_t base_pages;

static struct {
	struct eater *me;
	uint8_t *pages;
	uint8_t *generation; /* of each page; locked */
	uint64_t size;       /* pages there may be */
	uint64_t held;       /* pages there are */
	uint64_t turn;       /* from this page on nothing compresses */
	uint64_t random;
	int index;
} e;

void load_pages(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY), n;
	uint64_t got = 0;

	if (fd < 0 || fstat(fd, &st) < 0) {
		report("fatal what=pages");
		return;
	}
	base = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	while (got < (uint64_t)st.st_size && (n = read(fd, base + got, st.st_size - got)) > 0)
		got += n;
	base_pages = got / PAGE;
	close(fd);
	unlink(path); /* one copy is enough in a small machine */
}

static uint64_t next_random(void)
{
	e.random ^= e.random << 13;
	e.random ^= e.random >> 7;
	e.random ^= e.random << 17;
	return e.random;
}

static uint64_t sum(const uint64_t *word)
{
	uint64_t h = 0xcbf29ce484222325ull;
	int i;

	for (i = 3; i < PAGE / 8; i++)
		h = (h ^ word[i]) * 0x100000001b3ull;
	return h ^ word[0] * 31 ^ word[1];
}

static void sign(uint64_t *word, uint64_t name, uint8_t generation)
{
	word[0] = name;
	word[1] = generation;
	word[2] = sum(word);
}

void make_page(uint64_t *word, uint64_t name, uint8_t generation)
{
	memcpy(word, base + (name * 2654435761u + generation * 977u) % base_pages * PAGE, PAGE);
	sign(word, name, generation);
}

int is_page(const uint64_t *word, uint64_t name, uint8_t generation)
{
	return word[0] == name && word[1] == generation && word[2] == sum(word);
}

static uint64_t name_of(uint64_t i) { return i | (uint64_t)e.index << 56; }

static void stamp(uint64_t i)
{
	uint64_t *word = (uint64_t *)(e.pages + i * PAGE);
	uint8_t generation = ++e.generation[i];
	int k;

	if (i < e.turn) {
		make_page(word, name_of(i), generation);
		return;
	}
	for (k = 0; k < PAGE / 8; k++)
		word[k] = next_random();
	sign(word, name_of(i), generation);
}

static void look(uint64_t i)
{
	uint64_t *word = (uint64_t *)(e.pages + i * PAGE);

	if (is_page(word, name_of(i), e.generation[i])) {
		e.me->touches++;
		return;
	}
	if (e.me->wrong++ >= 10)
		return; /* ten lines are enough to see what kind it is */
	report("wrong eater=%d page=%lu index=%lx generation=%lu want=%d", e.index, i, word[0], word[1], e.generation[i]);
}

/* tick says that one more page is done with. */
static void tick(void)
{
	uint64_t now = now_ms(), took = now - e.me->last_ms;

	if (took > e.me->worst_ms)
		e.me->worst_ms = took;
	e.me->last_ms = now;
}

static void touch_one(void)
{
	uint64_t i = next_random() % e.held;

	look(i);
	if (next_random() % 4 == 0)
		stamp(i);
	tick();
}

static void touch_for(uint64_t ms)
{
	uint64_t end = now_ms() + ms;

	while (now_ms() < end)
		touch_one();
}

static void verify(void)
{
	uint64_t i;

	e.me->verified = 0;
	for (i = 0; i < e.held; i++) {
		look(i);
		e.me->verified++;
		tick();
	}
}

/* wait_turn goes on touching until PID 1 lets the eaters go. */
static void wait_turn(enum phase phase)
{
	e.me->phase = phase;
	while (shared->hold)
		touch_one();
}

/* share is an eater's part, in pages, of so many percent of the memory that
 * was available before there was swap. */
static uint64_t share(const char *name, uint64_t otherwise)
{
	long percent = param(name, 0);

	return percent ? shared->available / 4 * percent / 100 / param("EATERS", 1) : otherwise;
}

void eat(int index)
{
	struct sysinfo info;
	uint64_t shrink = share("SHRINK", 0);

	sysinfo(&info);
	e.index = index;
	e.me = &shared->eater[index];
	e.random = 0x9e3779b97f4a7c15ull * (index + 1 + param("SEED", 0) * MAX_EATERS);
	e.size = share("EAT", info.totalram * info.mem_unit / PAGE * 8);
	e.turn = share("TURN", UINT64_MAX);
	e.pages = mmap(NULL, e.size * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	e.generation = mmap(NULL, e.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (e.pages == MAP_FAILED || e.generation == MAP_FAILED || mlock(base, base_pages * PAGE) < 0)
		_exit(20);
	/* Huge pages would be split first, and hide what is measured. */
	madvise(e.pages, e.size * PAGE, MADV_NOHUGEPAGE);
	mlock2(e.generation, e.size, MLOCK_ONFAULT);

	e.me->last_ms = now_ms();
	e.me->phase = FILLING;
	while (e.held < e.size) {
		stamp(e.held++);
		tick();
		if (e.held % 8 == 0)
			touch_one();
		e.me->pages = e.held;
	}
	e.me->phase = TOUCHING;
	touch_for(param("SECONDS", 5) * 1000);
	if (shrink) {
		e.held = shrink < e.held ? shrink : e.held;
		e.me->pages = e.held;
		madvise(e.pages + e.held * PAGE, (e.size - e.held) * PAGE, MADV_DONTNEED);
		wait_turn(SHRUNK);
	}
	e.me->phase = VERIFYING;
	verify();
	e.me->phase = DONE;
	_exit(e.me->wrong ? 21 : 0);
}
