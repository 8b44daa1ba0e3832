/*-------------------------------------------------------------------------
 *
 * price.h
 *		The ledger: prices, and what was spent.
 *
 * Amounts are US dollars.  What is recorded is exact, as numeric; what is
 * compared with a budget or estimated is a double.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_LEDGER_PRICE_H
#define DESS_LEDGER_PRICE_H

#include "ledger/ledger.h"
#include "utils/date.h"

/* What one token costs, any discount taken off; numerics as text. */
typedef struct Price
{
	char	   *input;
	char	   *cached;
	char	   *output;
	double		a_input;
	double		a_output;
	DateADT		date;			/* when it was read, or began */
} Price;

/* The price of a job's model today; NULL: none is known. */
extern Price *ledger_find_price(const Job *job);

/* input, of which cached were, and output tokens at this price, as numeric. */
extern Datum price_of_tokens(const Price *price, int64 input, int64 cached, int64 output);

/* What a job and all jobs of its server have spent; what had no price counts as nothing. */
typedef struct Spending
{
	double		job;
	double		day;			/* of the server, this UTC day */
	double		month;
	double		bytes_a_request;	/* of the job, so far; 0: unknown */
	TimestampTz day_end;
	TimestampTz month_end;
} Spending;

extern void ledger_load_spending(const Job *job, Spending *spending);

/* Tokens of the job's latest answers, of those that have any; returns how many. */
extern int	ledger_load_answers(int64 job_id, int limit, int32 **input_tokens, int32 **output_tokens);

/* What the owner's latest jobs with the same requests used. */
typedef struct UsageHistory
{
	int64		requests;
	int64		bytes;			/* of request files */
	int64		input_tokens;
	int64		cached_tokens;
	int64		output_tokens;
} UsageHistory;

extern void ledger_load_history(const Job *job, UsageHistory *history);

/* Pauses a running job until then; 0: until somebody lets it go on. */
extern bool ledger_pause_until(int64 id, TimestampTz until, const char *error_code, const char *error);

/* Lets a job go on whose time has come.  False: it is not paused that way any more. */
extern bool ledger_unpause(int64 id);

#endif							/* DESS_LEDGER_PRICE_H */
