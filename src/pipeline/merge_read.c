/*-------------------------------------------------------------------------
 *
 * merge_read.c
 *		The beginning of stage 5: result lines find the rows they answer.
 *
 * A line is joined to its request by the id that we gave it, or by the digest
 * of the request that it echoes; never by its position.  What belongs to no
 * request, and what comes a second time, is counted and shown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "pipeline/merge_internal.h"
#include "runtime/batch_token.h"
#include "text/json.h"

#define GROUP_BYTES			(4 * 1024 * 1024)

/* Requests of a batch by their digest, where result lines only echo the request. */
typedef struct EchoEntry
{
	uint64		hash;
	int			no;
	char		status;
} EchoEntry;

#define SH_PREFIX echoes
#define SH_ELEMENT_TYPE EchoEntry
#define SH_KEY_TYPE uint64
#define SH_KEY hash
#define SH_HASH_KEY(tb, key) ((uint32) (key))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* ---- reading lines ---- */

static MergeEntry *
merge_new_entry(MergeGroup *group, int no)
{
	MergeEntry *entry;

	if (group->nentries == group->capacity)
	{
		group->capacity *= 2;
		group->entries = repalloc_huge(group->entries, group->capacity * sizeof(MergeEntry));
	}
	entry = &group->entries[group->nentries++];
	memset(entry, 0, sizeof(*entry));
	entry->no = no;
	return entry;
}

static void
merge_index_echoes(MergeState *state)
{
	state->echoes = echoes_create(state->cxt, state->nitems, NULL);
	for (int no = 1; no <= state->nitems; no++)
	{
		EchoEntry  *entry;
		bool		found;

		if (state->items[no - 1].same_as != 0)
			continue;
		entry = echoes_insert(state->echoes, digest_hash64(&state->items[no - 1].hash), &found);
		entry->no = no;
	}
}

/* The number of the request that a line answers; 0 if it is none of this batch's. */
static int
merge_find_request(MergeGroup *group, const BatchReply *reply)
{
	MergeState *state = group->state;
	Digest		hash;
	EchoEntry  *entry;
	int			no;

	if (reply->custom_id != NULL)
	{
		no = batch_parse_custom_id(reply->custom_id, group->batch->batch.token);
		return no <= state->nitems && no > 0 && state->items[no - 1].same_as == 0 ? no : 0;
	}
	if (reply->echoed_text == NULL)
		return 0;
	if (state->echoes == NULL)
		merge_index_echoes(state);
	source_request_hash(group->table, reply->echoed_text, strlen(reply->echoed_text), &hash);
	entry = echoes_lookup(state->echoes, digest_hash64(&hash));
	if (entry == NULL || memcmp(&state->items[entry->no - 1].hash, &hash, sizeof(Digest)) != 0)
		return 0;
	return entry->no;
}

/* Whose answer a line is can be told even if the answer has bytes that are no UTF-8. */
bool
merge_parse_line(const BatchProvider *provider, const char *line, size_t length,
				 BatchReply *reply, bool *garbled)
{
	const char *why = NULL;
	char	   *copy;

	*garbled = false;
	if (provider->read_result_line(line, length, reply, &why))
		return true;
	if (json_is_utf8(line, length))
		return false;
	copy = MemoryContextAllocHuge(CurrentMemoryContext, length + 1);
	memcpy(copy, line, length);
	copy[length] = '\0';
	json_replace_invalid(copy, length);
	memset(reply, 0, sizeof(*reply));
	*garbled = true;
	return provider->read_result_line(copy, length, reply, &why);
}

/*
 * The rows that a line answers: the one whose request it was, and those with an
 * equal one.  If they are many, the next group begins with the rest of them.
 */
static void
merge_take_line(MergeGroup *group, const char *line, size_t length)
{
	MergeState *state = group->state;
	const BatchProvider *provider = group->task->session->account->provider;
	BatchReply *reply = palloc0_object(BatchReply);
	char	   *raw = NULL;
	bool		garbled;
	bool		goes_on = group->nlines == 0 && state->rest != 0;
	int			first = 0;

	if (length == 0)
		return;
	if (merge_parse_line(provider, line, length, reply, &garbled))
	{
		group->good_lines++;
		first = merge_find_request(group, reply);
	}
	else
		group->bad_lines++;
	/* what is read once more is not counted once more */
	if (first == 0)
	{
		group->unmatched += state->passes == 0 ? 1 : 0;
		return;
	}
	if (state->seen[first - 1] && !goes_on)
	{
		group->duplicates += state->passes == 0 ? 1 : 0;
		return;
	}
	if (group->task->job->keep == KEEP_REPLY)
		raw = pnstrdup(line, length);

	for (int no = goes_on ? state->rest : first; no != 0; no = state->next_same[no])
	{
		MergeEntry *entry;

		if (no != first && group->nentries >= group->task->writing.rows)
		{
			group->rest = no;
			return;
		}
		state->seen[no - 1] = true;
		if (state->finished[no - 1])
			continue;
		entry = merge_new_entry(group, no);
		entry->own = no == first;
		entry->garbled = garbled;
		entry->reply = reply;
		entry->raw = raw;
	}
}

void
merge_read_lines(MergeGroup *group)
{
	MergeState *state = group->state;
	bool		whole = !group->task->job->online;
	int64		start = state->offset;
	char	   *line;
	size_t		length;

	if (state->reader == NULL)
	{
		MemoryContext caller;

		state->reader_cxt = AllocSetContextCreate(state->cxt, "dess_batch result file",
												  ALLOCSET_DEFAULT_SIZES);
		caller = MemoryContextSwitchTo(state->reader_cxt);
		state->reader = spool_open(spool_path(group->task->job->id, group->batch->batch.no,
											  SPOOL_RESULTS, state->file), state->offset);
		MemoryContextSwitchTo(caller);
	}

	while (group->rest == 0 && group->nlines < group->task->writing.rows &&
		   spool_offset(state->reader) - start < GROUP_BYTES)
	{
		group->offset_after = spool_offset(state->reader);
		line = spool_next_line(state->reader, &length, whole);
		if (line == NULL)
		{
			group->end_of_file = true;
			break;
		}
		if (length > 0 && line[length - 1] == '\r')
			length--;
		merge_take_line(group, line, length);
		group->nlines++;
	}
	group->task->writing.used = Max(group->nlines, group->nentries);
	if (group->rest == 0)
		group->offset_after = spool_offset(state->reader);
}
