/* SPDX-License-Identifier: Apache-2.0 */
/*
 * void registers_run_call(struct frame *), void registers_run_spin(struct frame *): load every
 * register, run, store every register.  struct frame is in registers.c.
 */
#define IN_STATE 0
#define OUT_STATE 8
#define MASK 16
#define RESULT 24
#define IN 32
#define OUT (IN + 14 * 8)

	.macro load
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	push %rdi
	sub $16, %rsp
	stmxcsr (%rsp)
	fnstcw 4(%rsp)
	mov MASK(%rdi), %eax
	mov MASK+4(%rdi), %edx
	mov IN_STATE(%rdi), %rcx
	xrstor64 (%rcx)
	mov IN+0*8(%rdi), %rax
	mov IN+1*8(%rdi), %rbx
	mov IN+2*8(%rdi), %rcx
	mov IN+3*8(%rdi), %rdx
	mov IN+4*8(%rdi), %rsi
	mov IN+6*8(%rdi), %rbp
	mov IN+7*8(%rdi), %r8
	mov IN+8*8(%rdi), %r9
	mov IN+9*8(%rdi), %r10
	mov IN+10*8(%rdi), %r12
	mov IN+11*8(%rdi), %r13
	mov IN+12*8(%rdi), %r14
	mov IN+13*8(%rdi), %r15
	mov IN+5*8(%rdi), %rdi
	.endm

	/* The frame's address is above what load has put on the stack; rcx is stored first. */
	.macro store
	push %rcx
	mov 24(%rsp), %rcx
	mov %rax, RESULT(%rcx)
	mov %rax, OUT+0*8(%rcx)
	mov %rbx, OUT+1*8(%rcx)
	pop %rbx
	mov %rbx, OUT+2*8(%rcx)
	mov %rdx, OUT+3*8(%rcx)
	mov %rsi, OUT+4*8(%rcx)
	mov %rdi, OUT+5*8(%rcx)
	mov %rbp, OUT+6*8(%rcx)
	mov %r8, OUT+7*8(%rcx)
	mov %r9, OUT+8*8(%rcx)
	mov %r10, OUT+9*8(%rcx)
	mov %r12, OUT+10*8(%rcx)
	mov %r13, OUT+11*8(%rcx)
	mov %r14, OUT+12*8(%rcx)
	mov %r15, OUT+13*8(%rcx)
	mov MASK(%rcx), %eax
	mov MASK+4(%rcx), %edx
	mov OUT_STATE(%rcx), %r11
	xsave64 (%r11)
	fninit
	fldcw 4(%rsp)
	ldmxcsr (%rsp)
	add $16, %rsp
	pop %rdi
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret
	.endm

	.text
	.globl registers_run_call
	.type registers_run_call, @function
registers_run_call:
	load
	syscall
	store

	.globl registers_run_spin
	.type registers_run_spin, @function
registers_run_spin:
	load
	mov $0x5a5a5a5a5a5a5a5a, %r11
	mov %r8, -64(%rsp) /* in the red zone */
1:	push %r8
	push %r9
	mov (%rsp), %r9
	cmp 8(%rsp), %r8
	lea 16(%rsp), %rsp
	jne 3f
	cmp -64(%rsp), %r8
	jne 3f
	incq registers_turns(%rip)
	cmpl $0, registers_stop(%rip)
	je 1b
	mov $0x5a5a5a5a5a5a5a5a, %rax
	cmp %rax, %r11
	jne 3f
	mov $0, %eax
	jmp 4f
3:	mov $1, %eax
4:
	store

	.section .note.GNU-stack, "", @progbits
