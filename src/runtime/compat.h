/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Every test of PG_VERSION_NUM in the tree.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_COMPAT_H
#define DESS_RUNTIME_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "dess_batch needs PostgreSQL 15 or later"
#endif

/* One function per kind of object became one for all in PostgreSQL 16. */
#if PG_VERSION_NUM >= 160000
#define compat_foreign_server_aclcheck(server, role, mode) \
	object_aclcheck(ForeignServerRelationId, server, role, mode)
#define compat_class_ownercheck(relation, role) \
	object_ownercheck(RelationRelationId, relation, role)
#define compat_database_ownercheck(database, role) \
	object_ownercheck(DatabaseRelationId, database, role)
#else
#define compat_foreign_server_aclcheck(server, role, mode) \
	pg_foreign_server_aclcheck(server, role, mode)
#define compat_class_ownercheck(relation, role) \
	pg_class_ownercheck(relation, role)
#define compat_database_ownercheck(database, role) \
	pg_database_ownercheck(database, role)
#endif

/* The i-th entry of pg_stat_activity, counted from 1, has another name since PostgreSQL 16. */
#if PG_VERSION_NUM >= 160000
#define compat_local_beentry(i) pgstat_get_local_beentry_by_index(i)
#else
#define compat_local_beentry(i) pgstat_fetch_stat_local_beentry(i)
#endif

/* A wait event set for the life of the process belongs to no resource owner, since PostgreSQL 17. */
#if PG_VERSION_NUM >= 170000
#define compat_create_wait_event_set(size) CreateWaitEventSet(NULL, size)
#else
#define compat_create_wait_event_set(size) CreateWaitEventSet(TopMemoryContext, size)
#endif

/* Wait events of extensions have names of their own since PostgreSQL 17. */
#if PG_VERSION_NUM >= 170000
#define compat_wait_event(name) WaitEventExtensionNew(name)
#else
#define compat_wait_event(name) ((void) (name), PG_WAIT_EXTENSION)
#endif

/* The class of waiting for a buffer has had three names. */
#if PG_VERSION_NUM >= 190000
#define COMPAT_WAIT_BUFFER PG_WAIT_BUFFER
#elif PG_VERSION_NUM >= 170000
#define COMPAT_WAIT_BUFFER PG_WAIT_BUFFERPIN
#else
#define COMPAT_WAIT_BUFFER PG_WAIT_BUFFER_PIN
#endif

/* Client code of early minor releases does not know the limit of the backend. */
#if defined(FRONTEND) && !defined(MaxAllocSize)
#define MaxAllocSize ((Size) 0x3fffffff)
#endif

/* A failed assertion has had no type since PostgreSQL 16. */
#if PG_VERSION_NUM >= 160000
#define COMPAT_ASSERTION_TYPE
#else
#define COMPAT_ASSERTION_TYPE const char *errorType,
#endif

/* Stands at the front of a declaration in every version. */
#if PG_VERSION_NUM >= 180000
#define compat_noreturn pg_noreturn
#else
#define compat_noreturn pg_attribute_noreturn()
#endif

#endif							/* DESS_RUNTIME_COMPAT_H */
