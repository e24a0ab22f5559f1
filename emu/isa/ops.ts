/**
 * Numbers of the instructions: what the decoder puts into a record and what the interpreter's
 * switch branches on. One number per mnemonic of emu/isa/table.ts; compressed instructions have
 * none, they decode to what they expand to. Dense and hottest first, so that a switch over them is
 * one jump table whose busy part is small. F, D and Zicbom/Zicboz are left out and go at the end.
 */

/** Not decoded yet: the content of a fresh record. */
export const OP_UNDECODED = 0;
/** No instruction of this hart: an illegal-instruction exception, with the raw bits as immediate. */
export const OP_ILLEGAL = 1;
/** Never decoded from bits: the record after the last one of a page may hold it. */
export const OP_PAGE_END = 2;

/* integer computation, loads, stores and control flow of RV64I: what nearly every program spends its time in */
export const OP_ADDI = 3;
export const OP_ADD = 4;
export const OP_LD = 5;
export const OP_SD = 6;
export const OP_LW = 7;
export const OP_SW = 8;
export const OP_BEQ = 9;
export const OP_BNE = 10;
export const OP_BLT = 11;
export const OP_BGE = 12;
export const OP_BLTU = 13;
export const OP_BGEU = 14;
export const OP_JAL = 15;
export const OP_JALR = 16;
export const OP_LUI = 17;
export const OP_AUIPC = 18;
export const OP_ADDIW = 19;
export const OP_ADDW = 20;
export const OP_SUB = 21;
export const OP_SUBW = 22;
export const OP_ANDI = 23;
export const OP_ORI = 24;
export const OP_XORI = 25;
export const OP_AND = 26;
export const OP_OR = 27;
export const OP_XOR = 28;
export const OP_SLLI = 29;
export const OP_SRLI = 30;
export const OP_SRAI = 31;
export const OP_SLLIW = 32;
export const OP_SRLIW = 33;
export const OP_SRAIW = 34;
export const OP_SLL = 35;
export const OP_SRL = 36;
export const OP_SRA = 37;
export const OP_SLLW = 38;
export const OP_SRLW = 39;
export const OP_SRAW = 40;
export const OP_SLT = 41;
export const OP_SLTU = 42;
export const OP_SLTI = 43;
export const OP_SLTIU = 44;
export const OP_LBU = 45;
export const OP_LHU = 46;
export const OP_LWU = 47;
export const OP_LB = 48;
export const OP_LH = 49;
export const OP_SB = 50;
export const OP_SH = 51;

/* M */
export const OP_MUL = 52;
export const OP_MULW = 53;
export const OP_MULH = 54;
export const OP_MULHU = 55;
export const OP_MULHSU = 56;
export const OP_DIV = 57;
export const OP_DIVU = 58;
export const OP_DIVW = 59;
export const OP_DIVUW = 60;
export const OP_REM = 61;
export const OP_REMU = 62;
export const OP_REMW = 63;
export const OP_REMUW = 64;

/* Zba */
export const OP_ADD_UW = 65;
export const OP_SLLI_UW = 66;
export const OP_SH1ADD = 67;
export const OP_SH2ADD = 68;
export const OP_SH3ADD = 69;
export const OP_SH1ADD_UW = 70;
export const OP_SH2ADD_UW = 71;
export const OP_SH3ADD_UW = 72;

/* Zbb */
export const OP_ANDN = 73;
export const OP_ORN = 74;
export const OP_XNOR = 75;
export const OP_CLZ = 76;
export const OP_CLZW = 77;
export const OP_CTZ = 78;
export const OP_CTZW = 79;
export const OP_CPOP = 80;
export const OP_CPOPW = 81;
export const OP_MAX = 82;
export const OP_MAXU = 83;
export const OP_MIN = 84;
export const OP_MINU = 85;
export const OP_SEXT_B = 86;
export const OP_SEXT_H = 87;
export const OP_ZEXT_H = 88;
export const OP_ROL = 89;
export const OP_ROLW = 90;
export const OP_ROR = 91;
export const OP_RORW = 92;
export const OP_RORI = 93;
export const OP_RORIW = 94;
export const OP_ORC_B = 95;
export const OP_REV8 = 96;

/* Zbs */
export const OP_BCLR = 97;
export const OP_BCLRI = 98;
export const OP_BEXT = 99;
export const OP_BEXTI = 100;
export const OP_BINV = 101;
export const OP_BINVI = 102;
export const OP_BSET = 103;
export const OP_BSETI = 104;

/* A */
export const OP_LR_W = 105;
export const OP_LR_D = 106;
export const OP_SC_W = 107;
export const OP_SC_D = 108;
export const OP_AMOSWAP_W = 109;
export const OP_AMOSWAP_D = 110;
export const OP_AMOADD_W = 111;
export const OP_AMOADD_D = 112;
export const OP_AMOXOR_W = 113;
export const OP_AMOXOR_D = 114;
export const OP_AMOAND_W = 115;
export const OP_AMOAND_D = 116;
export const OP_AMOOR_W = 117;
export const OP_AMOOR_D = 118;
export const OP_AMOMIN_W = 119;
export const OP_AMOMIN_D = 120;
export const OP_AMOMAX_W = 121;
export const OP_AMOMAX_D = 122;
export const OP_AMOMINU_W = 123;
export const OP_AMOMINU_D = 124;
export const OP_AMOMAXU_W = 125;
export const OP_AMOMAXU_D = 126;

/* ordering, environment and CSRs */
export const OP_FENCE = 127;
export const OP_FENCE_I = 128;
export const OP_ECALL = 129;
export const OP_EBREAK = 130;
export const OP_CSRRW = 131;
export const OP_CSRRS = 132;
export const OP_CSRRC = 133;
export const OP_CSRRWI = 134;
export const OP_CSRRSI = 135;
export const OP_CSRRCI = 136;

/* privileged, and the hypervisor extension */
export const OP_MRET = 137;
export const OP_SRET = 138;
export const OP_WFI = 139;
export const OP_SFENCE_VMA = 140;
export const OP_HFENCE_VVMA = 141;
export const OP_HFENCE_GVMA = 142;
export const OP_HLV_B = 143;
export const OP_HLV_BU = 144;
export const OP_HLV_H = 145;
export const OP_HLV_HU = 146;
export const OP_HLV_W = 147;
export const OP_HLV_WU = 148;
export const OP_HLV_D = 149;
export const OP_HLVX_HU = 150;
export const OP_HLVX_WU = 151;
export const OP_HSV_B = 152;
export const OP_HSV_H = 153;
export const OP_HSV_W = 154;
export const OP_HSV_D = 155;

/* Zicbom and Zicboz */
export const OP_CBO_INVAL = 156;
export const OP_CBO_CLEAN = 157;
export const OP_CBO_FLUSH = 158;
export const OP_CBO_ZERO = 159;

/** How many numbers there are: they are 0..OP_COUNT-1, and fit the 10 bits of a record. */
export const OP_COUNT = 160;
