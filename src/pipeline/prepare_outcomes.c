/*-------------------------------------------------------------------------
 *
 * prepare_outcomes.c
 *		Before stage 1, for jobs with "outcomes": rows chosen by what was known of them.
 *
 * The history of the table and target is gone through twice, a piece a worker transaction:
 * to find the last thing known of each key, and to list the rows for which that
 * is what the job asks for.  Keys are known by their digests.  Where there are
 * too many of them for the memory, those below a bound are seen to first, then
 * the next ones.  A worker transaction that fails, like a crash, makes all this begin anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pipeline/internal.h"

/* rows that a worker transaction looks at before it ends */
#define ROWS_PER_TXN			10000
/* rows that are put into the ledger, or removed from it, at once */
#define LIST_ROWS			5000
/* keys that are held in memory: 64 MB */
#define MEMORY_KEYS			1800000

/* The last thing known of a key. */
typedef struct LastEntry
{
	uint64		hash;
	TimestampTz at;
	int			source;			/* where it was found */
	int			no;
	char		outcome;
	bool		listed;
	char		status;
} LastEntry;

#define SH_PREFIX lasts
#define SH_ELEMENT_TYPE LastEntry
#define SH_KEY_TYPE uint64
#define SH_KEY hash
#define SH_HASH_KEY(tb, key) ((uint32) (key))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef struct OutcomesState
{
	MemoryContext cxt;
	bool		cleared;		/* what an earlier attempt has left is gone */
	HistorySource *sources;		/* NULL: not known yet */
	int			nsources;
	lasts_hash *lasts;
	uint64		first;			/* the keys' digests that are seen to, with both bounds */
	uint64		last;
	bool		listing;		/* the second time */
	bool	   *wanted;			/* sources that have rows to list */
	int			source;			/* that is read now */
	HistoryPlace place;
	bool		end;

	/* of the transaction under way */
	char	  **keys;
	Digest	   *hashes;
	int		   *with_hash;
	int			nlisted;
} OutcomesState;

/* Is an outcome one that the job asks for?  *changed: only where the request is another one now. */
static bool
is_asked_for(const Job *job, Outcome outcome, bool *changed)
{
	ListCell   *lc;

	*changed = false;
	if (outcome == OUTCOME_NONE)
		return false;
	foreach(lc, job->outcomes)
	{
		if (strcmp(lfirst(lc), outcome_name(outcome)) == 0)
		{
			*changed = false;
			return true;
		}
		if (strcmp(lfirst(lc), "changed") == 0)
			*changed = true;
	}
	return *changed;
}

/* ---- the first time ---- */

/* Too many keys: the upper half of them is left for later. */
static void
halve_keys(OutcomesState *state)
{
	lasts_iterator iterator;
	LastEntry  *entry;
	lasts_hash *kept = lasts_create(state->cxt, MEMORY_KEYS / 2, NULL);

	state->last = state->first + (state->last - state->first) / 2;
	lasts_start_iterate(state->lasts, &iterator);
	while ((entry = lasts_iterate(state->lasts, &iterator)) != NULL)
	{
		LastEntry  *copy;
		bool		found;

		if (entry->hash > state->last)
			continue;
		copy = lasts_insert(kept, entry->hash, &found);
		copy->at = entry->at;
		copy->source = entry->source;
		copy->no = entry->no;
		copy->outcome = entry->outcome;
		copy->listed = entry->listed;
	}
	lasts_destroy(state->lasts);
	state->lasts = kept;
}

static void
note_row(OutcomesState *state, const HistoryRow *row)
{
	uint64		hash;
	LastEntry  *entry;
	bool		found;

	if (row->key == NULL || row->outcome == OUTCOME_SUPERSEDED)
		return;
	hash = key_hash64(row->key);
	if (hash < state->first || hash > state->last)
		return;
	entry = lasts_insert(state->lasts, hash, &found);
	if (found && entry->at > row->at)
		return;
	entry->at = row->at;
	entry->source = state->source;
	entry->no = row->no;
	entry->outcome = (char) row->outcome;
	entry->listed = false;
	if (state->lasts->members > MEMORY_KEYS)
		halve_keys(state);
}

/* All is known of these keys: the second time only those sources are read that have any of what is asked for. */
static void
begin_listing(OutcomesState *state, const Job *job)
{
	lasts_iterator iterator;
	LastEntry  *entry;
	bool		changed;

	memset(state->wanted, 0, state->nsources * sizeof(bool));
	lasts_start_iterate(state->lasts, &iterator);
	while ((entry = lasts_iterate(state->lasts, &iterator)) != NULL)
	{
		if (is_asked_for(job, (Outcome) entry->outcome, &changed))
			state->wanted[entry->source] = true;
	}
	state->listing = true;
	state->source = 0;
}

/* ---- the second time ---- */

static void
save_list(OutcomesState *state, const Job *job)
{
	ledger_retry_queue_list(job->id, state->keys, state->hashes, state->with_hash, state->nlisted);
	state->nlisted = 0;
}

static void
list_row(OutcomesState *state, const Job *job, const HistoryRow *row)
{
	LastEntry  *entry;
	bool		changed;

	if (row->key == NULL || !is_asked_for(job, row->outcome, &changed))
		return;
	entry = lasts_lookup(state->lasts, key_hash64(row->key));
	if (entry == NULL || entry->listed || entry->source != state->source ||
		entry->no != row->no || entry->at != row->at || (Outcome) entry->outcome != row->outcome)
		return;
	entry->listed = true;
	state->keys[state->nlisted] = row->key;
	state->hashes[state->nlisted] = row->hash;
	state->with_hash[state->nlisted] = changed;
	if (++state->nlisted == LIST_ROWS)
		save_list(state, job);
}

/* These keys are done: the next ones, if there are more. */
static void
end_listing(OutcomesState *state)
{
	uint64		width = state->last - state->first;

	state->listing = false;
	state->source = 0;
	state->end = state->last == PG_UINT64_MAX;
	if (state->end)
		return;
	state->first = state->last + 1;
	state->last = width > PG_UINT64_MAX - state->first ? PG_UINT64_MAX : state->first + width;
	lasts_reset(state->lasts);
}

/* ---- worker transactions ---- */

static void
begin_txn(OutcomesState *state, const Job *job)
{
	MemoryContext caller;

	ledger_job_started(job->id);
	if (!state->cleared)
		state->cleared = list_length(ledger_retry_queue_take(job->id, LIST_ROWS)) < LIST_ROWS;
	if (!state->cleared || state->sources != NULL)
		return;
	caller = MemoryContextSwitchTo(state->cxt);
	state->nsources = ledger_history_sources(job, &state->sources);
	state->wanted = palloc0_array(bool, state->nsources + 1);
	state->lasts = lasts_create(state->cxt, 1024, NULL);
	MemoryContextSwitchTo(caller);
}

/* The next piece of the current source; returns how many rows it had. */
static int
read_source(OutcomesState *state, const Job *job)
{
	HistoryRow *rows;
	int			nrows = ledger_history_rows(job, &state->sources[state->source], &state->place, &rows);

	for (int i = 0; i < nrows; i++)
	{
		if (state->listing)
			list_row(state, job, &rows[i]);
		else
			note_row(state, &rows[i]);
	}
	if (state->place.end)
	{
		memset(&state->place, 0, sizeof(state->place));
		state->source++;
	}
	return nrows;
}

static void
outcomes_txn(void *arg)
{
	JobTask    *task = (JobTask *) arg;
	OutcomesState  *state = task->outcomes;
	const Job  *job = task->job;
	int			nrows = 0;

	begin_txn(state, job);
	if (!state->cleared)
		return;
	state->keys = palloc_array(char *, LIST_ROWS);
	state->hashes = palloc_array(Digest, LIST_ROWS);
	state->with_hash = palloc_array(int, LIST_ROWS);
	state->nlisted = 0;
	while (state->source < state->nsources && nrows < ROWS_PER_TXN)
	{
		CHECK_FOR_INTERRUPTS();
		if (state->listing && !state->wanted[state->source])
			state->source++;
		else if (nrows > 0 && nrows + state->sources[state->source].rows > ROWS_PER_TXN)
			break;
		else
			nrows += read_source(state, job);
	}
	save_list(state, job);
	if (state->place.key != NULL)
		state->place.key = MemoryContextStrdup(state->cxt, state->place.key);
	if (state->source < state->nsources)
		return;
	if (!state->listing)
		begin_listing(state, job);
	else
		end_listing(state);
	if (state->end)
		ledger_set_listed(job->id);
}

/* One page; the job's "listed" is set by the last one. */
WorkerTxnVerdict
prepare_outcomes(JobTask *task, WorkerTxnError *error)
{
	WorkerTxnVerdict verdict;

	if (task->outcomes == NULL)
	{
		MemoryContext cxt = AllocSetContextCreate(task->cxt, "dess_batch outcomes", ALLOCSET_DEFAULT_SIZES);

		task->outcomes = MemoryContextAllocZero(cxt, sizeof(OutcomesState));
		task->outcomes->cxt = cxt;
		task->outcomes->last = PG_UINT64_MAX;
	}
	verdict = jobtask_run(task, NULL, "choosing rows", outcomes_txn, task, error);
	if (verdict == WORKER_TXN_DONE && !task->outcomes->end)
		return verdict;
	/* of a worker transaction that failed the memory knows what the ledger does not */
	task->job->listed = verdict == WORKER_TXN_DONE;
	MemoryContextDelete(task->outcomes->cxt);
	task->outcomes = NULL;
	return verdict;
}
