import vue from 'eslint-plugin-vue'
import ts from 'typescript-eslint'

export default ts.config(
  { ignores: ['dist', 'node_modules', 'src/api/schema.d.ts'] },
  ...ts.configs.recommended,
  ...vue.configs['flat/essential'],
  {
    files: ['**/*.vue'],
    languageOptions: { parserOptions: { parser: ts.parser } },
  },
  {
    rules: {
      'max-lines': ['error', 400],
      'vue/multi-word-component-names': 'off',
      'vue/no-v-html': 'error',
      'no-console': 'error',
    },
  },
  // Texts are a table.
  { files: ['src/i18n/*.ts'], rules: { 'max-lines': 'off' } },
)
