// SPDX-License-Identifier: Apache-2.0
/* 32-bit code in a 64-bit program. */
#define _GNU_SOURCE
#include "refused.h"
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern const char narrow[], narrow_end[];
static int (*narrow_read)(void);

/* Reads a byte of standard input, and returns what read(2) did.  It runs below 4 GiB. */
__asm__(".pushsection .rodata\n"
	"narrow:\n"
	"	push	%rbx\n"
	"	push	%rbp\n"
	"	push	%r12\n"
	"	push	%r13\n"
	"	push	%r14\n"
	"	push	%r15\n"
	"	mov	%rsp, narrow_stack(%rip)\n"
	"	lea	narrow_top(%rip), %rsp\n"
	"	lea	narrow_back(%rip), %rax\n"
	"	mov	%eax, (%rsp)\n"
	"	movl	$0x33, 4(%rsp)\n" /* __USER_CS */
	"	lea	narrow_code(%rip), %rax\n"
	"	push	$0x23\n" /* __USER32_CS */
	"	push	%rax\n"
	"	mov	$3, %eax\n" /* read in asm/unistd_32.h */
	"	xor	%ebx, %ebx\n"
	"	lea	narrow_byte(%rip), %rcx\n"
	"	mov	$1, %edx\n"
	"	lretq\n"
	".code32\n"
	"narrow_code:\n"
	"	int	$0x80\n"
	"	lret\n"
	".code64\n"
	"narrow_back:\n"
	"	mov	narrow_stack(%rip), %rsp\n"
	"	pop	%r15\n"
	"	pop	%r14\n"
	"	pop	%r13\n"
	"	pop	%r12\n"
	"	pop	%rbp\n"
	"	pop	%rbx\n"
	"	ret\n"
	"	.balign	16\n"
	"narrow_stack:\n"
	"	.quad	0\n"
	"narrow_byte:\n"
	"	.skip	64\n"
	"narrow_top:\n"
	"	.quad	0\n"
	"narrow_end:\n"
	".popsection\n");

/* Not every kernel has calls of 32-bit code. */
static int works(void)
{
	int status, pid = fork();

	if (pid == 0) {
		close(0);
		_exit(narrow_read() != -9); /* EBADF */
	}
	return waitpid(pid, &status, 0) == pid && status == 0;
}

int narrow_wait(void)
{
	char *place = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	if (place == MAP_FAILED)
		return -1;
	memcpy(place, narrow, narrow_end - narrow);
	narrow_read = (int (*)(void))place;
	if (!works())
		return -1;
	wait_for_byte = narrow_read;
	return 0;
}
