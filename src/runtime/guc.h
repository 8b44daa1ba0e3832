/*-------------------------------------------------------------------------
 *
 * guc.h
 *		Settings.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_GUC_H
#define DESS_RUNTIME_GUC_H

extern bool dess_enabled;			/* dess_batch.enabled */
extern char *dess_databases;		/* dess_batch.databases */
extern int	dess_idle_timeout;		/* milliseconds */
extern char *dess_spool_directory;	/* "" means in the data directory */
extern int	dess_spool_limit;		/* megabytes */
extern int	dess_job_retention;		/* minutes */
extern char *dess_allowed_hosts;	/* checked list, see guc_host_allowed() */

extern void guc_init(void);

/* Does dess_batch.databases name this database?  Names are compared literally. */
extern bool guc_database_listed(const char *database);

/* Does dess_batch.allowed_hosts let this host pass?  Without port and brackets; case is ignored. */
extern bool guc_host_allowed(const char *host);

/*
 * Pins what the text form of values depends on (DateStyle, IntervalStyle,
 * TimeZone, extra_float_digits, bytea_output and others) and search_path, until
 * guc_unpin() or the end of the transaction or subtransaction by an error.
 */
extern int	guc_pin_output(void);
extern void guc_unpin(int nestlevel);

#endif							/* DESS_RUNTIME_GUC_H */
