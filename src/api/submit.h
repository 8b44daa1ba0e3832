/*-------------------------------------------------------------------------
 *
 * submit.h
 *		Arguments that dess_batch_submit and its kin share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_API_SUBMIT_H
#define DESS_API_SUBMIT_H

#include "fmgr.h"
#include "utils/numeric.h"
#include "utils/relcache.h"

#include "ledger/ledger.h"

/* Number of arguments that submit, prepare, preview and run have in common. */
#define SUBMIT_ARGUMENTS	22

/*
 * Checks the arguments, writes one job that may go as far as stage, and asks
 * for the worker at commit.  Returns the job's number.
 */
extern int64 submit_from_args(FunctionCallInfo fcinfo, JobStage stage);

/* submit_resolve.c: the arguments as a job, everything checked that can be without the network. */
extern Job *submit_resolve(FunctionCallInfo fcinfo, bool quiet);

/* Rows that "outcomes" names (of RetryRow *), as the job would take them; the ledger stays as it is. */
extern List *submit_list_outcomes(Job *job);

/* submit_columns.c: a job's table; each raises what is wrong with the arguments it looks at */
extern Relation submit_open_source(Oid source);	/* locked against changes until the transaction ends */
extern char *submit_column_list(const List *columns);	/* quoted, for messages */
extern void submit_check_columns(Relation rel, const List *names, const char *argument);
/* These need key_columns, and write what they find out into the job. */
extern void submit_resolve_target(Relation rel, Job *job, char *target);
extern void submit_check_properties(const Job *job, const char *prompt, const char *system_prompt);
extern void submit_resolve_missing(Relation rel, Job *job);	/* NULL where the target cannot hold the default word */
extern void submit_resolve_input(Relation rel, Job *job, List *input_columns);

/* submit_resolve.c: budgets */
extern char *submit_budget(Numeric budget);
extern void submit_check_price(const Job *job, const Account *account);

/* submit_args.c: every argument as resolved, as JSON text in the database's encoding */
extern char *submit_args_json(const Job *job, const char *keep);

/* api_show.c */
extern Datum dess_batch_row_key(PG_FUNCTION_ARGS);

#endif							/* DESS_API_SUBMIT_H */
