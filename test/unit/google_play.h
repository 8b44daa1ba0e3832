/*-------------------------------------------------------------------------
 *
 * google_play.h
 *		Steps of Google's providers, played against written replies.
 *
 * A play is a step, its stage and the replies it gets; what the step asked
 * for comes out as one text, which is compared.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_GOOGLE_PLAY_H
#define DESS_GOOGLE_PLAY_H

#include "provider/google/google.h"
#include "reply_stubs.h"

#define TOKEN	"t0ken"

typedef struct Play
{
	Account		account;
	BatchRemote remote;
	BatchStage	stage;
	const char *shorten[4][2];	/* beginnings of addresses, and what is told instead */
	uint32		checksum;		/* of whatever is asked for */
	const char *last_body;		/* of the last request that had one */
	HttpRequest first;			/* the first request */
} Play;

typedef struct Answer
{
	int			status;			/* 0: the connection broke; -1: it could not be made */
	const char *body;			/* of a broken connection with something in the sink: its status */
	const char *header;			/* "name: value", several of them separated by '|' */
	int64		sink_length;
} Answer;

extern Play *new_play(const BatchProvider *provider);
extern void play_option(Play *play, const char *name, const char *value);

/* Lets the step run to its end, or out of answers, and tells what it did. */
extern char *play_run(Play *play, StageStep step, const Answer *answers, int nanswers);

#define PLAY(play, step, ...) \
	play_run((play), (play)->account.provider->step, (const Answer[]) {__VA_ARGS__}, lengthof(((const Answer[]) {__VA_ARGS__})))

extern const char *play_shorten(const Play *play, const char *url);
extern const char *play_header(const HttpRequest *request, const char *name);

#endif							/* DESS_GOOGLE_PLAY_H */
