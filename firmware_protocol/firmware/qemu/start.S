/* Entry after reset: stack, zeroed .bss, main. A restart leaves .model alone. */
    .section .text.start
    .globl _start
_start:
    la sp, stack_top
    /* UART and timer may wake the processor (mie.MEIE, mie.MTIE); mstatus.MIE stays 0: no traps. */
    .option arch, +zicsr
    li t0, 0x880
    csrw mie, t0
    la t0, bss_start
    la t1, bss_end
1:  bgeu t0, t1, 2f
    sw zero, 0(t0)
    addi t0, t0, 4
    j 1b
2:  call main
3:  wfi
    j 3b
