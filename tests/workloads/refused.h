/* SPDX-License-Identifier: Apache-2.0 */
/* Makers of objects that cannot be carried; below 0: the machine has none. */
#ifndef REFUSED_H
#define REFUSED_H

int dispatch(void);
int dispatch_blocked(void);

#endif
