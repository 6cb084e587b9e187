// SPDX-License-Identifier: Apache-2.0
/* Where this CPU keeps the registers that XSAVE saves: Intel SDM vol. 1, 13.2 and 13.4.3. */
#include <cpuid.h>
#include <stdint.h>

#define OSXSAVE (1U << 27) /* CPUID leaf 1, ecx */
#define XSTATE_LEAF 0xd
#define EXTENDED 2 /* the first component behind the legacy area and the header */
#define COMPONENTS 63

struct livemig_component {
	uint32_t offset;
	uint32_t size;
};

static uint64_t enabled(void)
{
	uint32_t low, high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

/* Fills in the components that are enabled, and returns which these are (XCR0): 0 without XSAVE. */
uint64_t livemig_components(struct livemig_component found[COMPONENTS])
{
	uint32_t a, b, c, d;
	uint64_t features;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE))
		return 0;
	features = enabled();
	for (int number = EXTENDED; number < COMPONENTS; number++) {
		if (!(features >> number & 1))
			continue;
		__cpuid_count(XSTATE_LEAF, number, a, b, c, d);
		found[number] = (struct livemig_component){ .offset = b, .size = a };
	}
	return features;
}
