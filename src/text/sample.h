/*-------------------------------------------------------------------------
 *
 * sample.h
 *		The rows of a sample: those whose keys have the smallest digests, so
 *		that every call finds the same ones.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TEXT_SAMPLE_H
#define DESS_TEXT_SAMPLE_H

/* no more rows than this, because they are held in memory */
#define SAMPLE_MAX_ROWS		1000000

typedef struct SampleKey
{
	uint64		hash;
	char	   *key;
} SampleKey;

typedef struct Sample
{
	MemoryContext cxt;
	SampleKey  *heap;			/* the largest digest first */
	int			nkeys;
	int			capacity;
} Sample;

/* In the current memory context. */
extern Sample *sample_create(int64 rows);

/* Takes the key if its digest is among the smallest so far; copies it. */
extern void sample_add(Sample *sample, const char *key);

/* All keys of the sample, as an array of sample->nkeys. */
extern char **sample_keys(const Sample *sample);

#endif							/* DESS_TEXT_SAMPLE_H */
