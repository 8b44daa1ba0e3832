/*-------------------------------------------------------------------------
 *
 * api_submit.h
 *		Arguments that dess_batch_submit and its kin share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_API_SUBMIT_H
#define DESS_API_SUBMIT_H

#include "fmgr.h"

#include "jobstore.h"

/* Number of arguments that submit, prepare, preview and run have in common. */
#define SUBMIT_ARGUMENTS	22

/*
 * Checks the arguments, writes one job that may go as far as stage, and asks
 * for the worker at commit.  Returns the job's number.
 */
extern int64 submit_from_args(FunctionCallInfo fcinfo, JobStage stage);

/* submit_resolve.c: the arguments as a job, everything checked that can be without the network. */
extern Job *submit_resolve(FunctionCallInfo fcinfo, bool quiet);

/* submit_args.c: every argument as resolved, as JSON text in the database's encoding */
extern char *submit_args_json(const Job *job, const char *keep);

/* api_show.c */
extern Datum dess_batch_row_key(PG_FUNCTION_ARGS);

#endif							/* DESS_API_SUBMIT_H */
