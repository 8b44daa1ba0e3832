/*-------------------------------------------------------------------------
 *
 * agreement.h
 *		How far two names of departments agree.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TEXT_AGREEMENT_H
#define DESS_TEXT_AGREEMENT_H

typedef enum AgreementClass
{
	AGREEMENT_EQUAL,
	AGREEMENT_CONTAINED,		/* the words of one stand in the other, side by side */
	AGREEMENT_DIFFERENT,
	AGREEMENT_ONLY_A,
	AGREEMENT_ONLY_B,
	AGREEMENT_NEITHER
} AgreementClass;

#define AGREEMENT_CLASSES	(AGREEMENT_NEITHER + 1)

/* As the user writes it. */
extern const char *agreement_class_name(AgreementClass class);

/*
 * What is compared of a name (UTF-8; NULL is nothing): its words in lower case
 * with one blank between them, without accents and punctuation and without
 * "Department of" in English, German, French, Spanish, Italian, Portuguese and
 * Catalan; "and" for "&" and its kin in these.  Empty for what says nothing:
 * white space, MISSING, N/A, None, Unknown.  palloc'd.
 */
extern char *agreement_normalize(const char *name);

/* The class of two results of agreement_normalize(). */
extern AgreementClass agreement_compare(const char *a, const char *b);

#endif							/* DESS_TEXT_AGREEMENT_H */
