/* SPDX-License-Identifier: Apache-2.0 */
/* Makers of objects that cannot be carried; below 0: the machine has none. */
#ifndef REFUSED_H
#define REFUSED_H

int dispatch(void);
int dispatch_blocked(void);
int narrow_wait(void);

/* How the program waits for a byte once the object is made; 1 where it has come. */
extern int (*wait_for_byte)(void);

#endif
